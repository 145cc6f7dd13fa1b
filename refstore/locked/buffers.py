"""What the filelock engine hands out: `PinnedBuffer` and `Writer`.

A buffer has its block's root, and lets go of it when it is closed; views have it as long as they
live. A Writer's root has no pin, since the block is nobody else's; one that outlives the Writer's
end gets a pin then.

Who asks with PyBUF_WRITABLE and without PyBUF_FORMAT may keep the buffer itself and no view of it,
as `numpy.ndarray(buffer=)` does: then the root stays until the buffer is collected.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn, cast, final

import numpy as np
import numpy.typing as npt

from refstore import blocks, messages
from refstore.errors import RefstoreError
from refstore.locked import exports
from refstore.locked.life import here
from refstore.locked.pins import (
    Block,
    Home,
    Pin,
    Root,
    finalize,
    postpone,
    private_root,
    root_over,
    shaped,
)
from refstore.payload import decode
from refstore.refs import ObjectRef, make_ref

__all__ = [
    "Block",
    "Home",
    "Pin",
    "PinnedBuffer",
    "Writer",
    "open_writers",
    "pinned",
    "postpone",
    "writer",
]

_ASKS_METHOD: Final = exports.WAY == "METHOD"
_FORWARDS: Final = exports.WAY == "FORWARD"


# --- what both have in common


class _Block(exports.Exporter):
    __slots__ = (
        "_block",
        "_generation",
        "_home",
        "_is_closed",
        "_is_kept",
        "_root",
        "_slot",
        "_tag",
    )

    _block: Block
    _generation: int
    _home: Home | None  # None once it is given back: a closed buffer keeps no store mapped
    _is_closed: bool
    _is_kept: bool  # somebody may keep this very object, and read when all views are gone
    _root: Root | None
    _slot: int
    _tag: int

    def _take(self, home: Home, slot: int, generation: int, block: Block, root: Root) -> None:
        self._home = home
        self._tag = home.tag
        self._slot = slot
        self._generation = generation
        self._block = block
        self._root = root
        self._is_kept = False
        self._is_closed = False

    def _demand_open(self) -> tuple[Root, Home]:
        # nor in a child that has no place in the store: there, new views of what is kept would look
        # like any others
        root, home = self._demand_unclosed()
        if not home.is_alive():
            raise RefstoreError(messages.forked(home.path))
        return root, home

    def _demand_unclosed(self) -> tuple[Root, Home]:
        root, home = self._root, self._home
        if self._is_closed or root is None or home is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return root, home

    @property
    def _ref(self) -> ObjectRef:
        return make_ref(self._slot, self._generation, self._tag)

    def _as_array(self) -> npt.NDArray[Any]:
        root, home = self._demand_open()
        return shaped(root, self._block, home.path)

    def _buffer_for(self, flags: int) -> Any:
        root, _ = self._demand_open()
        if flags & exports.WRITABLE:
            if not flags & exports.FORMAT:
                self._is_kept = True
            if not root.flags.writeable:
                raise BufferError("this buffer is read-only")
        if self._block.kind != "array" or not exports.is_typed(flags):
            return root
        array = self._as_array()
        if flags & exports.FORMAT:
            exports.demand_format(array.dtype)
        elif _ASKS_METHOD and array.itemsize:  # a memoryview has a format, whoever asks for none
            array = array.view(np.dtype((np.void, array.itemsize)))
        return array

    def __len__(self) -> int:
        self._demand_open()
        return self._block.nbytes

    def __bytes__(self) -> bytes:
        root, _ = self._demand_open()
        return root.tobytes()

    @property
    def nbytes(self) -> int:
        """Bytes of payload."""
        return self._block.nbytes

    @property
    def closed(self) -> bool:
        """Whether it takes no further use; views taken from it may live on."""
        return self._is_closed

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: send its ref")


# --- reading


@final
class PinnedBuffer(_Block, blocks.PinnedBuffer):
    """An object that is pinned where it lies: a context manager and a read-only buffer.

    The pin goes when it is closed (`with` ends, `release()`, collection) and the last view taken
    from it is gone.
    """

    __slots__ = ("_asked",)

    _asked: int  # the flags of the last request

    def __init__(self) -> None:
        raise TypeError("Store.get() makes PinnedBuffers")

    def __enter__(self) -> PinnedBuffer:
        self._demand_open()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if not self._is_closed:
            self._is_closed = True
            exports.stop(self)
            if not self._is_kept:
                self._let_go()

    def _let_go(self) -> None:
        # If nobody else has the root, the pin goes here, and not in its finalizer: that would lose
        # a Ctrl-C.
        root = self._root
        if root is not None:
            pin, seen = root.pin, weakref.ref(root)
            del root
            self._root = None
            if isinstance(pin, Pin) and seen() is None:
                pin.give_back()
        self._home = None

    def release(self) -> None:
        """Closes the buffer. Views taken from it stay valid, and keep the pin."""
        self.__exit__(None, None, None)

    def _buffer_for(self, flags: int) -> Any:
        if _ASKS_METHOD:
            self._refuse_to_keep_nothing(flags)
        return super()._buffer_for(flags)

    def _refuse_to_keep_nothing(self, flags: int) -> None:
        # torch.frombuffer() asks for one and then for the other, and what it keeps is empty
        asked, self._asked = self._asked, flags
        first = exports.SIMPLE_WRITABLE
        if not self._is_closed and (flags == first or (asked, flags) == (first, exports.SIMPLE)):
            raise BufferError(
                "whoever asks so may not keep the object in memory (torch.frombuffer does not, "
                "without refstore's compiled core): hand over memoryview(buf)"
            )

    @property
    def kind(self) -> Literal["bytes", "array", "object"]:
        """How the object was put: "bytes", "array" or "object"."""
        self._demand_open()
        return cast("Literal['bytes', 'array', 'object']", self._block.kind)

    @property
    def ref(self) -> ObjectRef:
        """The object's ObjectRef."""
        return self._ref

    @property
    def array(self) -> npt.NDArray[Any]:
        """The array that was put, as a view without a copy; the bytes of anything else as uint8."""
        return self._as_array()

    @property
    def value(self) -> Any:
        """The object that was put; its buffers lie where they are, bytes are a memoryview."""
        root, _ = self._demand_open()
        if self._block.kind == "array":
            return self._as_array()
        view = memoryview(root)  # type: ignore[arg-type, unused-ignore]  # 3.12: ndarray
        return view if self._block.kind == "bytes" else decode(view, self.private_view)

    def private_view(self) -> memoryview:
        """A writable copy-on-write memoryview of the payload, which keeps the pin."""
        root, home = self._demand_open()
        if not root.flags.writeable:
            root = private_root(home, self._block, root)
        array: Any = shaped(root, self._block, home.path)
        return memoryview(array)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        array = self._as_array()
        if copy is None and dtype is None:
            return array
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self._as_array().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU

    def __repr__(self) -> str:
        if self._is_closed:
            return "<PinnedBuffer, closed>"
        return f"<PinnedBuffer of {self.nbytes} bytes, {self._block.kind}, {self.ref!r}>"


def pinned(home: Home, pin: Pin, generation: int, writable: bool = False) -> PinnedBuffer:
    """A buffer over an object that is pinned for it.

    `writable`: over a private copy-on-write view of it.
    """
    slot = pin.slot
    block = home.block(slot)
    if writable:
        root = private_root(home, block, pin)
    else:
        root = root_over(home.readable, block.offset, block.nbytes, pin)
    buffer = exports.export(PinnedBuffer, root, lambda: shaped(root, block, home.path))
    buffer._take(home, slot, generation, block, root)
    buffer._asked = exports.SIMPLE
    return buffer


# --- writing


_open: dict[int, weakref.ref[Writer]] = {}  # by id: those that are neither sealed nor given up


def open_writers(home: Home) -> list[int]:
    """The slots that a child forked now could write to by a Writer that it inherits.

    Each needs a pin of the child's; its copy of the Writer gives that back.
    """
    return [writer._slot for writer in _open_of(home)]


def _open_of(home: Home) -> list[Writer]:
    found = (ref() for ref in list(_open.values()))
    return [w for w in found if w is not None and w._home is home and w._is_made_here()]


def give_up_writers(home: Home) -> None:
    """What is not sealed by the interpreter's exit never is."""
    for one in _open_of(home):
        one.abort()


class _ClosedError(ValueError):
    """Another thread ends it, or has."""


@final
class Writer(_Block, blocks.Writer):
    """Room in shared memory, to be written and then sealed: a context manager and a buffer."""

    __slots__ = (
        "_array",
        "_call",
        "_end_once",
        "_forks",
        "_is_over",
        "_is_sealed",
        "_name",
        "_replaces",
        "_seen",
    )

    _array: weakref.ref[npt.NDArray[Any]] | None  # weak: the array keeps the root
    _call: Any  # that took the room; the life that it is of alone may end it
    _end_once: list[None]  # one entry, for the thread that ends it
    _forks: int  # that there were when it was made
    _is_over: bool  # the room is an object's, or is on its way back
    _is_sealed: bool
    _name: str | None
    _replaces: bool
    _seen: weakref.ref[Root] | None  # the root that we let go of

    def __init__(self) -> None:
        raise TypeError("Store.create() makes Writers")

    def __del__(
        self,
        finalize: Callable[..., None] = finalize,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        if getattr(self, "_is_over", True):
            return
        self._is_kept = False  # nobody did
        finalize(self._give_up, is_finalizing)

    def __enter__(self) -> Writer:
        self._demand_ours()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._is_closed:
            return
        if kind is None:
            self.seal()
        else:
            self.abort()

    def seal(self) -> ObjectRef:
        """Publishes what was written, for good; returns its ref."""
        home = self._demand_ours()
        try:
            self._end()
            home.seal(self._call, self._name, self._replaces, self._pin_of_views(home))
            self._settle()
            return self._ref
        except _ClosedError:
            raise
        except BaseException as error:
            if home.stays(self._call, error):
                self._settle()
                return self._ref
            self._give_up()
            raise

    def _settle(self) -> None:
        """It is sealed: what is left of it is read."""
        self._is_sealed = True
        _open.pop(id(self), None)
        self._is_over = True
        for ref in (self._seen, self._array):
            array = ref() if ref is not None else None
            if array is not None:
                array.flags.writeable = False
        if self._root is not None:
            self._root.flags.writeable = False
            if not self._is_kept:
                self._root = None

    def abort(self) -> None:
        """Gives the room back; nobody ever sees it. Does nothing once it is sealed or aborted."""
        if self._is_closed:
            return
        try:
            self._end()
            self._give_up()
        except _ClosedError:
            return
        except BaseException:
            self._give_up()  # interrupted: each step can be done twice
            raise

    @property
    def array(self) -> npt.NDArray[Any]:
        """What is written, as an array of the shape and dtype asked for (uint8 if bytes were)."""
        array = self._array() if self._array is not None else None
        if array is None:
            array = self._sealed_array() if self._is_sealed else self._as_array()
            self._array = weakref.ref(array)
        return array

    @property
    def ref(self) -> ObjectRef:
        """The sealed object's ref; ValueError before the seal."""
        if not self._is_sealed:
            raise ValueError("not sealed: there is no ref yet")
        return self._ref

    def __repr__(self) -> str:
        state = "sealed" if self._is_sealed else "closed" if self._is_closed else "open"
        return f"<Writer of {self.nbytes} bytes, {state}>"

    def _is_made_here(self) -> bool:
        is_ours: bool = self._call.life.is_ours()
        return is_ours

    def _is_ours(self, home: Home) -> bool:
        return self._is_made_here() and home.is_alive()

    def _demand_ours(self) -> Home:
        _, home = self._demand_unclosed()
        if not self._is_ours(home):
            raise ValueError(
                "this Writer belongs to the parent process: only the process that made it can "
                "seal it"
            )
        return home

    def _end(self) -> None:
        """No new views from here on."""
        self._is_closed = True
        try:
            self._end_once.pop()
        except IndexError:
            raise _ClosedError("this Writer is closed") from None
        exports.stop(self)

    def _pin_of_views(self, home: Home) -> Pin | None:
        """A pin for the root, if somebody has a view, or may have one: nothing may be put where
        views of it point."""
        root = self._root
        if root is not None and not self._is_kept and self._forks == here().forks:
            self._seen = weakref.ref(root)
            del root
            self._root = None
            root = self._seen()
        elif root is None and self._seen is not None:
            root = self._seen()
        if root is None:
            return None
        if not isinstance(root.pin, Pin):
            root.pin = Pin(home)
        return root.pin

    def _give_up(self) -> None:
        self._is_closed, self._is_sealed = True, False
        exports.stop(self)
        home = self._home
        if home is not None:
            pin = self._pin_of_views(home)
            if self._is_ours(home):
                home.give_up(self._call, pin)
            elif not self._is_made_here() and _open.pop(id(self), None) is not None:
                (pin or Pin(home)).inherit(self._slot)  # the fork pinned the block for us
        _open.pop(id(self), None)
        self._is_over = True
        self._home = None
        if not self._is_kept:
            self._root = None

    def _sealed_array(self) -> npt.NDArray[Any]:
        home = self._home
        if home is None:
            raise ValueError("this Writer is closed")
        pin = Pin(home)
        try:
            home.pin(self._slot, self._generation, pin)
            return pinned(home, pin, self._generation).array
        except BaseException:
            pin.give_back()
            raise


def writer(home: Home, call: Any, name: str | None, replace: bool) -> Writer:
    """A Writer over the block that the call took for it; from here on it is the Writer's to end."""
    slot, generation = call.slot, call.generation
    block = home.block(slot)
    root = root_over(home.writable, block.offset, block.nbytes, None)
    made = exports.export(Writer, root, lambda: shaped(root, block, home.path))
    made._array = made._seen = None
    made._end_once = [None]
    made._is_sealed = False
    made._name = name
    made._replaces = replace
    made._call = call
    made._forks = here().forks
    made._take(home, slot, generation, block, root)
    made._is_kept = _FORWARDS  # nobody tells us whether somebody keeps it
    _open[id(made)] = weakref.ref(made)
    made._is_over = False
    return made
