"""The terminal of `top`: keys, and lines that are drawn anew where they have changed."""

from __future__ import annotations

import dataclasses
import os
import time

from textual import events

from refstore._errors import ObjectNotFoundError, RefstoreError
from refstore._looking import Look
from refstore._reports import ObjectInfo
from refstore.cli.drawing import About, Table, draw_object, draw_objects, draw_store
from refstore.cli.holders import Held
from refstore.cli.objects import sorted_objects
from refstore.cli.terminal import Terminal
from refstore.cli.watching import Moment, Ranking, Rates, end_of, rates_between, take

__all__ = ["Screen"]

MAP_EVERY = 0.9  # seconds at least between two looks at the pages, which take longest
STORE_ORDERS = {"b": "bytes", "p": "pins", "r": "rate", "w": "waiting"}
OBJECT_ORDERS = {"s": "size", "a": "age", "p": "pins", "n": "name"}
STEPS = {"up": -1, "down": 1, "k": -1, "j": 1}


class Screen(Terminal):
    """The pages, one over the other: the store, its objects, one object."""

    def __init__(self, store: Look, name: str, interval: float) -> None:
        super().__init__()
        self._store, self._interval = store, interval
        self._about = About(
            name, store.path, store.backend, store.evict, store.capacity, store.max_objects
        )
        self._moment: Moment = take(store)
        self._pages_at = self._moment.at
        self._rates: Rates = rates_between(None, self._moment)
        self._file = os.stat(store.path)
        self._order, self._objects_order = "bytes", "size"
        self._ranking = Ranking()
        self._processes, self._table = Table(), Table()
        self._objects: list[ObjectInfo] | None = None  # while they are shown
        self._object: tuple[ObjectInfo, list[Held], bool] | None = None  # and whether it is gone

    def on_mount(self) -> None:
        self.set_interval(self._interval, self._look_again)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _look_again(self) -> None:
        if end := end_of(self._store.path, self._file):
            self.exit(return_code=2, message=f"refstore: {self._about.name} {end}")
            return
        if self._object is not None:
            self._open(self._object[0])
            self._draw()
            return
        if self._objects is not None:
            return  # a list that moves cannot be read
        old = self._moment
        is_due = time.monotonic() - self._pages_at >= MAP_EVERY
        try:
            self._moment = take(self._store, None if is_due else old.pages)
        except (RefstoreError, OSError) as error:
            self.exit(return_code=2, message=f"refstore: {error}")
            return
        if is_due:
            self._pages_at = self._moment.at
        self._rates = rates_between(old, self._moment)
        self._draw()

    def _draw(self) -> None:
        width, height = self.size
        if self._object is not None:
            lines = draw_object(*self._object, width, height)
        elif self._objects is not None:
            shown = (self._objects, self._objects_order, self._table)
            lines = draw_objects(self._about, *shown, width, height)
        else:
            ranked = self._ranking.of(self._moment.processes, self._rates, self._order)
            seen = (self._moment, ranked, self._rates, self._order, self._processes)
            lines = draw_store(self._about, *seen, width, height)
        self.show(lines)

    # --- keys

    def on_key(self, event: events.Key) -> None:
        key = event.key
        if key == "q":
            self.exit()
        elif key == "escape":
            if self._object is not None:
                self._object = None
            else:
                self._objects = None
        elif self._object is None:
            self._on_key_in_a_table(key)
        self._draw()

    def _on_key_in_a_table(self, key: str) -> None:
        table = self._processes if self._objects is None else self._table
        page = max(self.size.height - 6, 1)
        if key in STEPS:
            table.at += STEPS[key]
        elif key in ("pageup", "pagedown"):
            table.at += page if key == "pagedown" else -page
        elif key in ("home", "end"):
            table.at = 0 if key == "home" else 1 << 30
        elif self._objects is None:
            if key in STORE_ORDERS:
                self._order = STORE_ORDERS[key]
            elif key in ("o", "enter"):
                self._load()
        elif key in OBJECT_ORDERS:
            self._objects_order = OBJECT_ORDERS[key]
            self._objects = sorted_objects(self._objects, self._objects_order)
        elif key == "r":
            self._load()
        elif key == "enter" and self._objects:
            self._open(self._objects[self._table.at])

    def _load(self) -> None:
        self._objects = sorted_objects(self._store.objects(), self._objects_order)

    def _open(self, one: ObjectInfo) -> None:
        """Looks at one object anew, which may be deleted or gone by now."""
        if one.ref is None:
            self._object = one, [], False
            return
        try:
            rows = self._store.holders(one.ref)
        except ObjectNotFoundError:
            self._object = one, [], True
            return
        try:
            one = self._store.info(one.ref)
        except ObjectNotFoundError:
            pins = sum(row.pins for row in rows)
            one = dataclasses.replace(one, state="pending delete", pins=pins)
        self._object = one, [Held(row, one.state, one.created) for row in rows], False
