"""The command `metrics`: a store's figures for Prometheus, as text or over HTTP."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import refstore
from refstore._errors import RefstoreError
from refstore._limits import UNLIMITED
from refstore._looking import Look
from refstore.cli.output import MissingExtraError, flush, note, show_json
from refstore.cli.reaching import look

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["metrics"]

LOCAL = "127.0.0.1"
LARGEST = 10  # processes that have figures of their own
GAUGES = (  # field of StoreStats, name, help
    ("capacity", "capacity_bytes", "Capacity of the store, in bytes."),
    ("used", "used_bytes", "Bytes of blocks being written, live, or deleted and still pinned."),
    ("free", "free_bytes", "Bytes that are not used."),
    ("largest_free", "largest_free_bytes", "Bytes of the largest object that fits now."),
    ("resident", "resident_bytes", "Bytes of memory that the file takes."),
    ("file_system_free", "file_system_free_bytes", "Bytes free on the file system."),
    ("objects", "objects", "Live objects."),
    ("pinned", "pinned_objects", "Objects that are pinned, live or deleted."),
    ("condemned", "pending_delete_objects", "Objects that are deleted, and kept by pins."),
    ("processes", "processes", "Processes that are attached and alive."),
    ("waiting", "waiting_processes", "Processes that wait for names, room or a lock."),
)
COUNTERS = (
    ("puts", "puts", "Objects published."),
    ("gets", "gets", "Calls of get()."),
    ("deletes", "deletes", "Objects deleted, by delete() or replaced."),
    ("evictions", "evictions", "Objects deleted to make room for others."),
    ("recoveries", "recoveries", "Processes that died attached, and were cleaned up after."),
)


def metrics(options: argparse.Namespace) -> int:
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingExtraError("metrics", "metrics", error) from None

    if options.address is not None and options.port is None:
        raise ValueError("--address says where to serve: give --port, too")
    collector = _Collector(options.name, options.foreign)
    if options.port is None:
        families = list(collector.figures())
        if options.json:
            show_json([_as_json(family) for family in families])
            return 0
        registry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(_Collected(families))
        print(prometheus_client.generate_latest(registry).decode(), end="")
        return 0
    if options.json:
        raise ValueError("--port serves Prometheus's text, not JSON: give one of the two")
    for _ in collector.figures():  # a store that is not there is said now
        break
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    _serve(registry, options.port, options.address or LOCAL)
    return 0


def _serve(registry: Any, port: int, address: str) -> None:
    """Answer until a signal ends it."""
    import prometheus_client

    ended = threading.Event()
    try:
        server, thread = prometheus_client.start_http_server(port, address, registry)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{address}:{port}") from None
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        note(f"http://{address}:{server.server_port}/metrics")
        flush()
        ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        server.shutdown()
        server.server_close()
        thread.join()


class _Collected:
    """Figures that were taken already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class _Collector:
    """Looks at the store anew each time: it may be gone, or another one, by then."""

    def __init__(self, name: str, foreign: bool) -> None:
        self._name, self._foreign = name, foreign

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("refstore_up", "Whether the store could be read.", labels=["store"])
        try:
            found = list(self.figures())
        except (RefstoreError, OSError, ValueError):
            found = []
        up.add_metric([self._name], 1 if found else 0)
        yield up
        yield from found

    def figures(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with look(self._name, self._foreign) as store:
            yield self._about(store)
            stats = store.stats()
            for field, name, text in GAUGES:
                value = getattr(stats, field, None)
                if value is not None and value != UNLIMITED:
                    gauge = GaugeMetricFamily(f"refstore_{name}", text, labels=["store"])
                    gauge.add_metric([self._name], value)
                    yield gauge
            for field, name, text in COUNTERS:
                counter = CounterMetricFamily(f"refstore_{name}", text, labels=["store"])
                counter.add_metric([self._name], getattr(stats, field))
                yield counter
            yield from self._of_processes(store)

    def _about(self, store: Look) -> Metric:
        from prometheus_client.core import InfoMetricFamily

        about = {
            "backend": store.backend,
            "evict": store.evict or "",
            "uuid": store.uuid.hex(),
            "version": refstore.__version__,
        }
        family = InfoMetricFamily(
            "refstore_store", "The store that is looked at.", labels=["store"]
        )
        family.add_metric([self._name], about)
        return family

    def _of_processes(self, store: Look) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        processes = store.processes()
        dead = GaugeMetricFamily(
            "refstore_dead_processes",
            "Processes that died attached, and were not cleaned up after yet.",
            labels=["store"],
        )
        dead.add_metric([self._name], sum(not one.alive for one in processes))
        yield dead
        labels = ["store", "slot", "pid", "label", "command"]
        held = GaugeMetricFamily(
            "refstore_process_held_bytes",
            f"Bytes of blocks that a process pins or writes; of the {LARGEST} largest.",
            labels=labels,
        )
        pins = GaugeMetricFamily(
            "refstore_process_pins", "Pins of a process; of the same processes.", labels=labels
        )
        largest = sorted(processes, key=lambda one: (-one.bytes, one.pid, one.slot))[:LARGEST]
        for one in largest:
            who = [self._name, str(one.slot), str(one.pid), one.label, one.command]
            held.add_metric(who, one.bytes)
            pins.add_metric(who, one.pins)
        yield from (held, pins)


def _as_json(family: Metric) -> dict[str, object]:
    return {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": [
            {"name": one.name, "labels": one.labels, "value": one.value} for one in family.samples
        ],
    }
