"""`PinnedBuffer` of the filelock engine, and what it has in common with `Writer`.

A buffer has its block's root, and lets go of it when it is closed; views have it as long as they
live.

Who asks with PyBUF_WRITABLE and without PyBUF_FORMAT may keep the buffer itself and no view of it,
as `numpy.ndarray(buffer=)` does: then the root stays until the buffer is collected.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, cast, final

import numpy as np
import numpy.typing as npt

from refstore import _buffers, _messages
from refstore._docs import adopt_docs
from refstore._errors import RefstoreError
from refstore._refs import ObjectRef, make_ref
from refstore.engines.filelock import buffer_protocol
from refstore.engines.filelock.pins import Block, Home, Pin, Root, private_root, root_over, shaped
from refstore.payload import arrays, decode
from refstore.payload.headers import header_of
from refstore.payload.rules import require_unpickling

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Block", "Exported", "Home", "PinnedBuffer", "pinned"]

_ASKS_METHOD: Final = buffer_protocol.WAY == "METHOD"


# --- what both have in common


class Exported(buffer_protocol.Exporter):
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

    _noun: ClassVar[str]

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

    def _require_open(self) -> tuple[Root, Home]:
        # nor in a child that has no place in the store: there, new views of what is kept would look
        # like any others
        root, home = self._require_unclosed()
        if not home.is_alive():
            raise RefstoreError(_messages.forked(home.path))
        return root, home

    def _require_unclosed(self) -> tuple[Root, Home]:
        root, home = self._root, self._home
        if self._is_closed or root is None or home is None:
            raise _messages.closed_buffer(self._noun)
        return root, home

    @property
    def _ref(self) -> ObjectRef:
        return make_ref(self._slot, self._generation, self._tag)

    def _as_array(self) -> npt.NDArray[Any]:
        root, home = self._require_open()
        return shaped(root, self._block, home.path)

    def _buffer_for(self, flags: int) -> Any:
        root, _ = self._require_open()
        if flags & buffer_protocol.WRITABLE:
            if not flags & buffer_protocol.FORMAT:
                self._is_kept = True
            if not root.flags.writeable:
                raise BufferError("this buffer is read-only")
        if self._block.kind != "array" or not buffer_protocol.is_typed(flags):
            return root
        array = self._as_array()
        if flags & buffer_protocol.FORMAT:
            buffer_protocol.require_format(array.dtype)
        elif _ASKS_METHOD and array.itemsize:  # a memoryview has a format, whoever asks for none
            array = array.view(np.dtype((np.void, array.itemsize)))
        return array

    def __len__(self) -> int:
        self._require_open()
        return self._block.nbytes

    def __bytes__(self) -> bytes:
        root, _ = self._require_open()
        return root.tobytes()

    @property
    def nbytes(self) -> int:
        return self._block.nbytes

    @property
    def closed(self) -> bool:
        return self._is_closed

    def __reduce__(self) -> NoReturn:
        raise _messages.no_pickle(self._noun)


# --- reading


class _Pinned(Exported):
    __slots__ = ("_asked", "_is_guarded")
    _noun = "PinnedBuffer"

    _asked: int  # the flags of the last request
    _is_guarded: bool  # set if its object is not to be unpickled

    def __init__(self) -> None:
        raise _messages.no_constructor("PinnedBuffer")

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if not self._is_closed:
            self._is_closed = True
            buffer_protocol.stop(self)
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
        self.__exit__(None, None, None)

    def _buffer_for(self, flags: int) -> Any:
        if _ASKS_METHOD:
            self._refuse_to_keep_nothing(flags)
        return super()._buffer_for(flags)

    def _refuse_to_keep_nothing(self, flags: int) -> None:
        # torch.frombuffer() asks for one and then for the other, and what it keeps is empty
        asked, self._asked = self._asked, flags
        if isinstance(self, DirectBuffer) and "torch" not in sys.modules:
            return  # then it is numpy.frombuffer() that asks so, and keeps the buffer
        first = buffer_protocol.SIMPLE_WRITABLE
        if not self._is_closed and (
            flags == first or (asked, flags) == (first, buffer_protocol.SIMPLE)
        ):
            raise BufferError(
                "whoever asks so may not keep the object in memory (torch.frombuffer does not, "
                "without refstore's compiled core): hand over memoryview(buf)"
            )

    @property
    def kind(self) -> Literal["bytes", "array", "object"]:
        self._require_open()
        return cast("Literal['bytes', 'array', 'object']", self._block.kind)

    @property
    def ref(self) -> ObjectRef:
        return self._ref

    @property
    def header(self) -> bytes:
        self._require_open()
        return header_of(self._block.kind, self._block.nbytes, self._block.description)

    @property
    def meta(self) -> bytes:
        _, home = self._require_open()
        return home.meta(self._slot)

    @property
    def array(self) -> npt.NDArray[Any]:
        return self._require_array()

    def _require_array(self) -> npt.NDArray[Any]:
        self._require_open()
        if self._block.kind == "object":
            raise _messages.no_array()
        return self._as_array()

    @property
    def value(self) -> Any:
        root, _ = self._require_open()
        if self._block.kind == "array":
            return self._as_array()
        view = memoryview(root)  # type: ignore[arg-type, unused-ignore]  # 3.12: ndarray
        if self._block.kind == "bytes":
            return view
        require_unpickling(self)
        return decode(view, self._private_view)

    def _private_view(self) -> memoryview:
        root, home = self._require_open()
        if not root.flags.writeable:
            root = private_root(home, self._block, root)
        return buffer_protocol.typed_view(shaped(root, self._block, home.path))

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        array = self._require_array()
        if copy is None and dtype is None:
            return array
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        array = self._require_array()
        try:
            return array.__dlpack__(**options)
        except BufferError as error:
            if array.flags.writeable:
                raise
            raise _messages.no_dlpack(error) from error

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU

    def __repr__(self) -> str:
        if self._is_closed:
            return _messages.CLOSED_BUFFER
        return f"<PinnedBuffer of {self.nbytes} bytes, {self._block.kind}, {self.ref!r}>"


@final
class PinnedBuffer(_Pinned, buffer_protocol.ReleasingExporter, _buffers.PinnedBuffer):
    __slots__ = ()
    __doc__ = _buffers.PinnedBuffer.__doc__


@final
class DirectBuffer(_Pinned, _buffers.PinnedBuffer):
    # For what no view shows as plain bytes, as native's: numpy.frombuffer() asks the buffer itself.

    __slots__ = ()
    __doc__ = _buffers.PinnedBuffer.__doc__


adopt_docs(Exported, _buffers.Block)
adopt_docs(_Pinned, _buffers.PinnedBuffer)


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
    made: type[_Pinned] = PinnedBuffer
    if block.kind == "array" and not arrays.has_plain_view(block.description):
        made = DirectBuffer
    buffer: Any = buffer_protocol.export(made, root, lambda: shaped(root, block, home.path))
    buffer._take(home, slot, generation, block, root)
    buffer._asked = buffer_protocol.SIMPLE
    buffer._is_guarded = False
    return cast(PinnedBuffer, buffer)
