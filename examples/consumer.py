"""An asyncio program that follows 200 sensors, each by a coroutine that waits for its next reading.

    python -m examples.consumer

Two processes publish readings, each over the one before. A coroutine gets the newest; those that
came and went meanwhile are passed over. One thread sleeps for all of them.
"""

import asyncio
import multiprocessing
import threading

from refstore import Store, aio

SENSORS, READINGS, PROCESSES = 200, 20, 2
BUSY_TIMEOUT = 60  # seconds


def publish(store: Store, first: int) -> None:
    """One process: every second sensor."""
    for reading in range(1, READINGS + 1):
        for number in range(first, SENSORS, PROCESSES):
            store.put({"reading": reading}, name=f"sensor {number}", replace=True)


async def follow(store: Store, number: int) -> int:
    """Sees a sensor's readings till the last one; how many it saw."""
    seen, reading, known = 0, 0, None
    while reading < READINGS:
        with await aio.wait(
            store, f"sensor {number}", newer_than=known, timeout=BUSY_TIMEOUT
        ) as buf:
            assert buf.value["reading"] > reading, "never an older one"
            reading, known = buf.value["reading"], buf.ref
        seen += 1
    return seen


async def consume(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    tasks = [asyncio.create_task(follow(store, number)) for number in range(SENSORS)]
    await asyncio.sleep(0)  # they begin
    threads = threading.active_count()
    sensors = [context.Process(target=publish, args=(store, n)) for n in range(PROCESSES)]
    for sensor in sensors:
        sensor.start()
    seen = await asyncio.gather(*tasks)
    for sensor in sensors:
        sensor.join()
    print(f"{SENSORS} coroutines and {threads} threads followed {SENSORS * READINGS} readings")
    print(f"{sum(seen)} were seen, the last of each sensor among them")


def main() -> None:
    with Store.temporary("16MiB") as store:
        asyncio.run(consume(store))


if __name__ == "__main__":
    main()
