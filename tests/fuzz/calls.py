"""Every call of the public API and every command, played on a file that may be anything."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from refstore import ObjectRef, Store, cli
from refstore._looking import Look
from tests.fuzz.files import File, objects
from tests.fuzz.notes import Notes

COMMANDS = ("ls", "stat", "holders", "objects", "trim", "metrics", "check", "recover", "gc", "rm")
PUTS = (0, 1, 64, 100, 513, 4096, 40_000)
FILLING = (60_000, 16_000, 3000, 100)  # bytes; sizes in which the room there is is taken
MOST = 16  # puts of one size
GROUPS = {"native": 6, "filelock": 4}  # of eleven groups of calls, those that an image gets
MOMENT = 0.001  # seconds that calls wait
ENOUGH = 3  # calls that waited in vain, after which an image is over; 1 if each takes its time

_OBJECTS = objects()
_KINDS = sorted(_OBJECTS)
_loads = pickle.loads
_streams: set[bytes] = set()


def leave_streams_whole(known: set[bytes]) -> None:
    """From here on a pickle that nobody wrote is an UnpicklingError and is not played.

    Whoever writes pickles may run code, so nobody damages them here; a damaged frame can lead into
    the midst of one nevertheless.
    """
    _streams.update(known)
    pickle.loads = _guarded


def _guarded(data: Any, /, **options: Any) -> Any:
    seen = bytes(data)  # another process may write there meanwhile: what was seen is what is played
    if seen not in _streams:
        raise pickle.UnpicklingError("nobody wrote such a pickle")
    return _loads(seen, **options)


def _ask(player: Player, buf: Any) -> None:
    for what in ("nbytes", "kind", "ref", "closed", "header", "meta"):
        if hasattr(type(buf), what):
            player.attempt(what, getattr, buf, what)


WAYS: tuple[tuple[str, Callable[[Player, Any], object]], ...] = (  # to look at a buffer
    ("ask", _ask),
    ("bytes", lambda player, buf: bytes(buf)),
    ("memoryview", lambda player, buf: player.touch(memoryview(buf))),
    ("asarray", lambda player, buf: player.touch(np.asarray(buf))),
    ("frombuffer", lambda player, buf: player.touch(np.frombuffer(buf, "u1"))),
    ("dlpack", lambda player, buf: player.touch(np.from_dlpack(buf))),
    ("private view", lambda player, buf: player.scribble(buf._private_view())),
    ("repr", lambda player, buf: repr(buf)),
)


def is_impatient() -> bool:
    """Whether the core has a knob for how long it waits, and it is turned down."""
    with contextlib.suppress(ImportError):
        from refstore import _core

        return bool(_core.DEBUG)
    return True


class Player:
    """Plays one image."""

    def __init__(self, notes: Notes, chance: random.Random, file: File, path: str) -> None:
        self.notes = notes
        self.attempt = notes.attempt
        self.chance = chance
        self.enough = ENOUGH if is_impatient() else 1
        self.file = file
        self.path = path
        self.store: Store | None = None
        self.held: list[Any] = []
        self.meddle: Callable[[], None] | None = None  # changes the file once more
        self.refs = [ObjectRef(raw) for raw in file.refs]
        self.names = [*file.names, "unknown"]

    # --- a whole play

    def open(self) -> bool:
        """Whether the store could be opened."""
        draw = 1.0 if self.notes.is_sound else self.chance.random()
        options: dict[str, Any] = {"create": False}
        if draw < 0.03:
            options = {"capacity": self.file.layout.numbers[-1]}
        elif draw < 0.05:
            options = {"backend": self.chance.choice(("native", "filelock")), "create": False}
        self.store = self.attempt("open", Store, self.path, **options)
        return self.store is not None

    def hold(self) -> None:
        """Some buffers and writers, as a process has them that is at work."""
        store = self.store
        assert store is not None
        keys = self.some_keys(8)
        self.held += [buf for key in keys if (buf := self.attempt("get", store.get, key))]
        self.held += [self.attempt("array", lambda b=buf: b.array) for buf in self.held[:2]]
        if writer := self.attempt("create", store.create, 3000, name="held writer"):
            self.held.append(writer)
        if len(keys) > 3:
            self.attempt("delete", store.delete, keys[1])

    def play(self) -> None:
        """All there is, in any order."""
        groups: list[Callable[[Store], None]] = [
            *(self.read, self.look, self.put, self.fill, self.replace, self.write, self.remove),
            *(self.tend, self.send, self.meet, self.batch),
        ]
        groups = self.chance.sample(groups, GROUPS[self.file.engine])
        if self.chance.random() < 0.04:
            groups.insert(self.chance.randrange(len(groups)), self.fork)
        for group in groups:
            if self.meddle is not None and self.chance.random() < 0.3:
                self.meddle()
            if self.store is not None and self.notes.busy < self.enough:
                group(self.store)
        self.let_go()
        self.command()

    def end(self) -> None:
        """Nothing is left open."""
        self.let_go()
        if self.store is not None:
            self.attempt("close", self.store.close)
        self.store = None
        gc.collect(0)  # all that there is since the last image

    def let_go(self) -> None:
        self.chance.shuffle(self.held)
        while self.held:
            one = self.held.pop()
            if hasattr(one, "abort"):
                self.attempt("abort", one.abort)
            elif hasattr(one, "release"):
                self.attempt("release", one.release)
            del one

    def some_keys(self, n: int) -> list[Any]:
        keys = [*self.refs, *self.names]
        return self.chance.sample(keys, min(n, len(keys)))

    # --- groups of calls

    def read(self, store: Store) -> None:
        """Every object, in every way."""
        there = self.attempt("iter", lambda: list(store)) or []
        keys = self.some_keys(9) + self.chance.sample(there, min(4, len(there)))
        for key in keys:
            self.read_one(store, key)

    def read_one(self, store: Store, key: Any) -> None:
        is_writable = self.chance.random() < 0.2
        buf = self.attempt("get", store.get, key, writable=is_writable)
        if buf is None:
            return
        self.attempt("touch array", lambda: self.touch(buf.array))
        self.attempt("touch value", lambda: self.touch(buf.value))
        for way in self.chance.sample(WAYS, 3):
            self.attempt(*way, self, buf)
        if is_writable:
            self.attempt("scribble", lambda: self.scribble(memoryview(buf)))
        if self.chance.random() < 0.9:
            self.attempt("release", buf.release)
        else:
            self.held.append(buf)

    def touch(self, value: Any) -> None:
        """Reads what is shown, all of it if it is no more than there can be."""
        if isinstance(value, memoryview):
            if value.nbytes <= self.file.layout.file_size and value.contiguous:
                bytes(value)
        elif isinstance(value, np.ndarray):
            if value.nbytes <= self.file.layout.file_size:
                value.tobytes()
            elif value.size:
                value[(0,) * value.ndim], value[(-1,) * value.ndim]
        elif isinstance(value, dict):
            self.touch(list(value.values()))
        elif isinstance(value, list | tuple):
            for one in value:
                self.touch(one)

    def scribble(self, view: memoryview) -> None:
        if view.nbytes and view.c_contiguous:
            octets = np.frombuffer(view, "u1")
            octets[:1], octets[-1:] = 1, 2

    def look(self, store: Store) -> None:
        """What says something of the store and changes nothing."""
        for key in self.some_keys(6):
            self.attempt("refcount", store.refcount, key)
            self.attempt("in", store.__contains__, key)
            self.attempt("holders", store.holders, key)
            if isinstance(key, str):
                self.attempt("ref", store.ref, key)
                self.attempt("names", store.names, key[:2])
            self.attempt("info", store.info, key)
        self.attempt("objects", lambda: list(store.objects()))
        self.attempt("names", store.names)
        self.attempt("len", len, store)
        self.attempt("holders", store.holders)
        self.attempt("stats", store.stats)
        self.attempt("check", store.check)
        for what in ("capacity", "max_objects", "path", "backend", "evict", "closed"):
            self.attempt(what, getattr, store, what)
        self.attempt("repr", repr, store)
        if self.chance.random() < 0.5:
            self.glance()

    def glance(self) -> None:
        """The same from outside."""
        look = self.attempt("look", Look, self.path)
        if look is None:
            return
        for what in ("stats", "processes", "recoveries", "page_states", "holders", "problems"):
            self.attempt(f"look {what}", getattr(look, what))
        self.attempt("look objects", lambda: list(look.objects()))
        for key in self.some_keys(4):
            self.attempt("look info", look.info, key)
        look.close()

    def put(self, store: Store) -> None:
        """Objects of every size and kind."""
        for size in PUTS:
            self.keep(self.attempt("put", store.put, b"\xfe" * size))
        chosen = self.chance.sample(_KINDS, 3)
        for name in chosen:
            ref = self.attempt("put", store.put, _OBJECTS[name])
            if ref is not None:
                self.keep(ref)
                self.read_one(store, ref)

    def keep(self, ref: ObjectRef | None) -> None:
        if ref is not None:
            self.refs.append(ref)

    def fill(self, store: Store) -> None:
        """Until there is no room, and back."""
        refs = []
        for size in FILLING:
            data = b"\xfe" * size
            for _ in range(MOST):
                ref = self.attempt("fill", store.put, data)
                if ref is None:
                    break
                refs.append(ref)
        for ref in refs:
            self.attempt("delete", store.delete, ref)

    def replace(self, store: Store) -> None:
        for name in self.chance.sample(self.names, min(4, len(self.names))):
            data = b"\xfe" * self.chance.choice(PUTS)
            self.keep(self.attempt("put name", store.put, data, name=name))
            self.keep(self.attempt("replace", store.put, data, name=name, replace=True))
            self.attempt("setitem", store.__setitem__, name, data)
            self.attempt("getitem", store.__getitem__, name)
        self.attempt("put new", store.put, b"\xfe", name="a new name")

    def write(self, store: Store) -> None:
        """By a Writer: sealed, given up, left by an exception."""
        for options in ({"nbytes": 5000}, {"shape": (30, 40), "dtype": "f4", "name": "written"}):
            writer = self.attempt("create", store.create, **options)
            if writer is not None:
                self.attempt("fill writer", lambda w=writer: self.scribble(memoryview(w)))
                self.attempt("write_at", writer.write_at, self.chance.choice(PUTS[:-2]), b"\xfe")
                if "nbytes" in options:
                    self.attempt("truncate", writer.truncate, self.chance.choice(PUTS[:-1]))
                if self.chance.random() < 0.6:
                    self.keep(self.attempt("seal", writer.seal))
                else:
                    self.attempt("abort", writer.abort)
        writer = self.attempt("create", store.create, 100, name=self.names[0], replace=True)
        if writer is not None:
            with contextlib.suppress(ZeroDivisionError):
                self.attempt("leave writer", writer.__exit__, ZeroDivisionError, None, None)

    def meet(self, store: Store) -> None:
        """What waits for others, keeps others waiting, or goes with its owner."""
        name, other = self.chance.sample(self.names, 2) if len(self.names) > 1 else ("m", "n")
        self.attempt("get", store.get, "a name in vain", timeout=MOMENT)
        self.attempt("wait", store.wait, name, timeout=MOMENT)
        known = self.chance.choice(self.refs) if self.refs else None
        self.attempt("wait for a newer one", store.wait, name, newer_than=known, timeout=MOMENT)
        self.attempt("wait_any", store.wait_any, self.names, timeout=MOMENT)
        self.attempt("put and wait", store.put, b"\xfe" * 60_000, timeout=MOMENT)
        for key in (name, "a new name"):
            made = self.attempt(
                "get_or_put", store.get_or_put, key, lambda: b"\xfe" * 500, timeout=MOMENT
            )
            self.held += [made] if made is not None else []
        writer = self.attempt("claim", store.create, 700, name=other, replace=True, claim=True)
        self.attempt("put what is claimed", store.put, b"\xfe", name=other, replace=True)
        if writer is not None:
            self.keep(self.attempt("seal", writer.seal))
        self.keep(self.attempt("put owned", store.put, b"\xfe" * 90, owned=True))
        for key in self.some_keys(4):
            self.attempt("adopt", store.adopt, key)
            if self.chance.random() < 0.5:
                self.attempt("disown", store.disown, key)

    def batch(self, store: Store) -> None:
        """Many objects at once, some of which may go when there is no room."""
        objs: list[object] = [b"\xfe" * size for size in self.chance.sample(PUTS, 4)]
        objs.append(_OBJECTS[self.chance.choice(_KINDS)])
        names = [f"of a batch {k}" for k in range(len(objs))]
        for options in ({}, {"names": names, "replace": True, "owned": True, "evictable": True}):
            for ref in self.attempt("put_many", store.put_many, objs, **options) or ():
                self.keep(ref)
        many = [b"\xfe" * 9000] * MOST
        self.attempt("put_many and wait", store.put_many, many, timeout=MOMENT)
        bufs = self.attempt("get_many", store.get_many, self.some_keys(3)) or []
        for buf in bufs:
            self.attempt("touch value", lambda b=buf: self.touch(b.value))
            self.attempt("ref_of", store.ref_of, buf)
        self.held += bufs
        self.attempt("put meta", store.put, b"\xfe", meta=b"\xfe" * 50, evictable=True)
        self.attempt("delete_many", store.delete_many, self.some_keys(5))

    def remove(self, store: Store) -> None:
        for key in self.some_keys(8):
            self.attempt("delete", store.delete, key)
        self.attempt("delitem", store.__delitem__, self.names[0])
        if self.chance.random() < 0.1:
            self.attempt("clear", store.clear, self.chance.choice(("", self.names[0][:1])))

    def tend(self, store: Store) -> None:
        for what in self.chance.sample(("recover", "trim", "check", "stats", "recover"), 5):
            self.attempt(what, getattr(store, what))

    def send(self, store: Store) -> None:
        """As another process gets it."""
        sent = self.attempt("pickle", pickle.dumps, store)
        if sent is not None:
            again = self.attempt("unpickle", _loads, sent)
            if again is not None:
                self.attempt("len", len, again)
                self.attempt("close", again.close)
        if self.chance.random() < 0.1:
            self.temporary()

    def temporary(self) -> None:
        """A store of our own beside it: whoever makes one looks at what lies there."""
        store = self.attempt("temporary", Store.temporary, "64KiB", backend=self.file.engine)
        if store is not None:
            self.attempt("put temporary", store.put, b"x")
            self.attempt("close temporary", store.close)

    def fork(self, store: Store) -> None:
        """A child that goes on with what it inherits."""
        if not self.held:
            self.hold()
        child = self.attempt("fork", os.fork)
        if child == 0:
            self.remove(store)
            self.look(store)
            self.put(store)
            self.end()
            os._exit(0)
        if child:
            status = os.waitpid(child, 0)[1]
            if status:
                ended = f"a forked child ended with {os.waitstatus_to_exitcode(status)}"
                self.notes.find("signal", ended)

    # --- commands

    def command(self) -> None:
        """One of them, and in the end the file goes, one way or another."""
        name = self.chance.choice(COMMANDS)
        if self.chance.random() < 0.2:
            self.run_command(name)
        if self.chance.random() < 0.2 and os.path.exists(self.path):
            self.glance()
        if self.store is not None and self.chance.random() < 0.3:
            self.attempt("unlink", self.store.unlink)

    def run_command(self, name: str) -> None:
        arguments = [name] if name in ("ls", "gc") else [name, self.path]
        if name != "rm" and self.chance.random() < 0.5:
            arguments.insert(0, "--json")
        if name not in ("rm", "gc") and self.chance.random() < 0.2:
            arguments.append("--foreign")
        self.notes.clock.tick()
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _terminal(), _terminal()
        try:
            cli.main(arguments)
        except Exception as error:  # a command says what is wrong and ends with 2
            self.notes.unexpected(name, error)
        except SystemExit as error:
            self.notes.unexpected(name, error)
        finally:
            sys.stdout, sys.stderr = out, err


def _terminal() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8")
