"""A Ray cluster on two hosts with a link that is slow, then cut, then whole again.

    python -m stress.cluster_net                 as root: `make cluster-net`

The hosts are network namespaces of this machine, joined by a bridge. Exit status 1 if anything was
other than docs/integrations/ray.md says.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import refstore.ray
from stress import delayed_link

HOSTS = {"refstore-a": "10.213.0.1", "refstore-b": "10.213.0.2"}
BRIDGE = "refstore-br"
PORT = 6399
CUT = 10.0  # seconds
SIZES = (1000, 1 << 20, 40 << 20)  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="stress.cluster_net", description=__doc__)
    parser.add_argument("--rate", default="200mbit", help="of the link, as tc writes it")
    parser.add_argument("--delay", type=float, default=5, help="of the link, milliseconds")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return inside(options.inside)
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        print("it takes root, and iproute2 (Debian: apt install iproute2)", file=sys.stderr)
        return 2
    with hosts(options.rate, options.delay):
        return ray_on_both()


def run(*command: str, check: bool = True) -> bool:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.returncode == 0


@contextlib.contextmanager
def hosts(rate: str, delay: float) -> Iterator[None]:
    """Two namespaces and the link between them."""
    clear()
    try:
        with contextlib.ExitStack() as links:
            run("ip", "link", "add", BRIDGE, "type", "bridge")
            run("ip", "link", "set", BRIDGE, "up")
            by_netem = True
            for number, (host, address) in enumerate(HOSTS.items()):
                here, there = f"rs{number}", f"rs{number}p"
                run("ip", "netns", "add", host)
                if by_netem or not delayed_link.is_possible():
                    run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
                else:  # the second host's: a delay of both ways
                    links.enter_context(delayed_link.between(here, there, delay / 1000))
                    print(f"{host}: {delay} ms each way, by a thread between two TAP devices")
                run("ip", "link", "set", here, "netns", host)
                run("ip", "link", "set", there, "master", BRIDGE, "up")
                for command in (
                    ("addr", "add", f"{address}/24", "dev", here),
                    ("link", "set", here, "up"),
                    ("link", "set", "lo", "up"),
                ):
                    run("ip", "-n", host, *command)
                by_netem = limited(host, here, rate, delay)
            yield
    finally:
        clear()


def limited(host: str, device: str, rate: str, delay: float) -> bool:
    """Limit what a host sends, and say whether netem delays it, too."""
    tc = ("tc", "-n", host, "qdisc", "add", "dev", device, "root")
    if run(*tc, "netem", "delay", f"{delay}ms", "rate", rate, check=False):
        print(f"{host}: {rate}, {delay} ms by netem")
        return True
    if run(*tc, "tbf", "rate", rate, "burst", "256kb", "latency", "50ms", check=False):
        print(f"{host}: {rate}; this kernel has no netem")
    else:
        print(f"{host}: as fast as it goes; this kernel has no netem and no tbf")
    return False


def clear() -> None:
    for number, host in enumerate(HOSTS):
        run("ip", "link", "del", f"rs{number}p", check=False)  # and so the end that is in there
        run("ip", "netns", "del", host, check=False)
    run("ip", "link", "del", BRIDGE, check=False)


def ray_on_both() -> int:
    """Starts Ray on both hosts, and this program inside of the first."""
    folder = tempfile.mkdtemp(prefix="refstore-net-", dir="/dev/shm")
    environment = os.environ | {"REFSTORE_DIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    tool = os.path.join(os.path.dirname(sys.executable), "ray")
    first, second = HOSTS
    started = []
    try:
        for host, how in (
            (first, ("--head", f"--port={PORT}", "--include-dashboard=false")),
            (second, (f"--address={HOSTS[first]}:{PORT}",)),
        ):
            command = ("ip", "netns", "exec", host, tool, "start", "--block", *how)
            more = (f"--node-ip-address={HOSTS[host]}", "--num-cpus=2")
            memory = f"--object-store-memory={200 << 20}"
            started.append(
                subprocess.Popen(
                    [*command, *more, memory], env=environment, stdout=subprocess.DEVNULL
                )
            )
        address = f"{HOSTS[first]}:{PORT}"
        outside = os.open("/proc/self/ns/net", os.O_RDONLY)  # where the bridge is
        program = (sys.executable, "-m", "stress.cluster_net", "--inside", str(outside))
        return subprocess.run(
            ["ip", "netns", "exec", first, *program],
            env=environment | {"RAY_ADDRESS": address},
            pass_fds=(outside,),
            check=False,
        ).returncode
    finally:
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Reader:
    """A process of the other host."""

    def __init__(self) -> None:
        self.cluster = refstore.ray.connect()

    def get(self, ref: Any) -> int:
        with self.cluster.get(ref, timeout=120) as buf:
            return len(bytes(buf))

    def latest(self, name: str) -> int:
        version, buf = self.cluster.latest(name)
        buf.release()
        return version

    def put(self, nbytes: int) -> Any:
        return self.cluster.put(os.urandom(nbytes))

    def state(self) -> tuple[int, list[Any]]:
        store = self.cluster.store
        store.clear()
        return store.stats().used, list(store.check())


class Trial:
    """What is tried, by a driver on the first host."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        wait_for(lambda: len(live()) == len(HOSTS), "both hosts")
        self.cluster = refstore.ray.start("400MiB")
        self.there = next(node for node in live() if node != self.cluster.node)
        actor: Any = ray.remote(num_cpus=0)(Reader)
        where = NodeAffinitySchedulingStrategy(self.there, soft=False)
        self.reader = actor.options(scheduling_strategy=where).remote()
        self.refs = [ray.get(self.reader.put.remote(nbytes)) for nbytes in SIZES]
        self.late = ray.get(self.reader.put.remote(SIZES[-1]))
        self.version = 0

    def expect(self, text: str, holds: bool) -> None:
        print(f"{'ok   ' if holds else 'WRONG'} {text}", flush=True)
        if not holds:
            self.faults.append(text)

    def before(self) -> None:
        for ref in self.refs:
            began = time.monotonic()
            with self.cluster.get(ref, timeout=120) as buf:
                whole = buf.nbytes == ref.nbytes
            took = time.monotonic() - began
            self.expect(f"{ref.nbytes} bytes over the link in {took:.2f} s", whole)
        self.version = self.cluster.publish("weights", b"1" * 1000).version
        theirs = ray.get(self.reader.latest.remote("weights"))
        self.expect("a version is on both hosts", theirs == self.version)

    def during(self) -> None:
        began = time.monotonic()
        try:
            self.cluster.get(self.late, timeout=2)
        except Exception as error:
            took, is_right = time.monotonic() - began, isinstance(error, refstore.GetTimeoutError)
            self.expect(f"a get ends with {type(error).__name__} after {took:.1f} s", is_right)
        else:
            self.expect("nothing comes over the link", False)
        for ref in self.refs:
            with self.cluster.get(ref, timeout=0) as buf:
                text = f"{ref.nbytes} bytes that came before are read"
                self.expect(text, len(buf) == ref.nbytes)
        missed = self.cluster.publish("weights", b"2" * 1000, timeout=3).missed
        self.expect("a publication says who missed it", missed == (self.there,))

    def after(self) -> None:
        began = time.monotonic()
        with self.cluster.get(self.late, timeout=120) as buf:
            took, whole = time.monotonic() - began, len(buf) == SIZES[-1]
        self.expect(f"whole again: the get has its object after {took:.1f} s", whole)
        latest = self.reader.latest
        wait_for(lambda: ray.get(latest.remote("weights")) > self.version, "the version")
        self.expect("the version that was missed came by itself", True)
        for ref in (*self.refs, self.late):
            self.cluster.delete(ref)
        left = ray.get(self.reader.state.remote())
        self.expect("nothing is left on the other host", left == (0, []))
        store = self.cluster.store
        store.clear()
        self.expect("nor here", (store.stats().used, store.check()) == (0, []))
        self.cluster.stop()
        self.expect("no store is left", os.listdir(os.environ["REFSTORE_DIR"]) == [])


def inside(outside: int) -> int:
    """`outside`: the namespace that has the bridge."""
    initialised(lambda: ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False))
    trial = Trial()
    trial.before()
    link(outside, "down")
    cut_at = time.monotonic()
    try:
        trial.during()
        time.sleep(max(0.0, cut_at + CUT - time.monotonic()))  # the cut has a length
    finally:
        link(outside, "up")
    trial.after()
    print(f"{len(trial.faults)} faults" if trial.faults else "all as it should be")
    return 1 if trial.faults else 0


def live() -> list[str]:
    listed: Any = ray.nodes  # which has no types
    return [one["NodeID"] for one in listed() if one["Alive"]]


def initialised(call: Callable[[], object]) -> None:
    def succeeds() -> bool:
        try:
            call()
        except Exception:
            return False
        return True

    wait_for(succeeds, "Ray")


def link(outside: int, state: str) -> None:
    there = f"--net=/proc/{os.getpid()}/fd/{outside}"
    run("nsenter", there, "ip", "link", "set", BRIDGE, state)


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {seconds:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
