"""Four web workers with one matrix between them, and one cache of results.

    python -m examples.web    # needs fastapi and uvicorn

Each worker is a process with an event loop. The matrix is made by the one that is asked first; the
others wait for it, and could go on serving meanwhile. Results are evicted when others need their
room; the matrix is not.
"""

import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

import fastapi
import numpy as np
import uvicorn

from refstore import Store, aio

WORKERS, ROWS, REQUESTS = 4, 1500, 300
CAPACITY = 18_750_000  # bytes, of which the matrix has 18,000,000


def serve(store: Store, port: socket.socket) -> None:
    """One worker's process."""
    app = fastapi.FastAPI()

    def matrix() -> Any:
        store.put(b"", name=f"made by {os.getpid()}", evictable=False)
        return np.random.default_rng(1).random((ROWS, ROWS))

    @app.get("/like/{row}")
    async def like(row: int) -> list[int]:
        """Who answers, and which other row is most like this one."""

        async def likeness() -> Any:
            with await aio.get_or_put(store, "matrix", matrix, evictable=False) as buf:
                return buf.array @ buf.array[row]

        with await aio.get_or_put(store, f"likeness/{row}", likeness) as buf:
            return [os.getpid(), *(int(one) for one in buf.array.argsort()[-2:] if one != row)]

    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([port])


def main() -> None:
    context = multiprocessing.get_context("spawn")
    rows = np.random.default_rng(2).zipf(1.3, REQUESTS) % ROWS  # some are asked for often
    with (
        Store.temporary(CAPACITY, evict="lru") as store,
        socket.create_server(("127.0.0.1", 0), backlog=REQUESTS) as port,
    ):
        host, number = port.getsockname()
        workers = [context.Process(target=serve, args=(store, port)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()

        def ask(row: int) -> int:
            with urlopen(f"http://{host}:{number}/like/{row}", timeout=60) as response:
                return int(response.read().strip(b"[]").split(b",")[0])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, rows))
        for worker in workers:
            worker.terminate()
            worker.join()
        made, cached = len(store.names("made by ")), len(store.names("likeness/"))
        print(f"{len(answers)} answers by {len(set(answers))} workers; {made} made the matrix")
        print(f"{cached} results are cached, {store.stats().evictions} were evicted")


if __name__ == "__main__":
    main()
