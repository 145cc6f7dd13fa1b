"""Any picklable object as one flat run of bytes, a frame, and back without copying its buffers.

Bytes-like objects and plain arrays lie in the store as they are. Every other object is pickled by
protocol 5, and its buffers (arrays, Arrow buffers, torch storages) are kept out of the pickle
stream, so that they can be used where they lie; `frames` says how a frame is laid out. What is
stored of a buffer is what the object shows of it:

    ndarrays        `ndarrays`   and their subclasses, masked arrays among them
    torch tensors   `torch`      whose views share their storage again
    Arrow, polars   `arrow`      slices without the rest of what they were cut from

None of those libraries but numpy is imported here when an object is put: an object can hold what is
theirs only if somebody else has imported them.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from refstore._pickled import Reducer, Reducers
from refstore.payload import arrow, frames, ndarrays, rules, serializers, torch
from refstore.payload.frames import Frame

__all__ = ["Frame", "decode", "encode", "explain", "pickled", "unpickle"]


def encode(obj: object) -> Frame:
    """Pickle `obj`. Raises what pickle raises; nothing is written anywhere yet."""
    if type(obj) is torch.tensor_class and (frame := torch.alone(obj, _frame_of)):
        return frame
    return _frame_of(obj)


def pickled(obj: object) -> bytes | Frame:
    """Pickle `obj` as `encode` does. Returns a pickle that has no buffers beside it alone."""
    idle = None
    if type(obj) is rules.Bound:
        encoder = _Encoder()
        dump, obj = encoder.pickler(obj.rules.pickler or pickle.Pickler).dump, obj.obj
    else:
        try:
            idle = _idle.pop()
            encoder, dump, _ = idle
        except IndexError:
            encoder = _Encoder()
            pickler = encoder.pickler(pickle.Pickler)
            _, dump, _ = idle = encoder, pickler.dump, pickler.clear_memo
    try:
        dump(obj)
    except AttributeError as error:
        # what pickle raises before Python 3.14 for a local function or class
        if not str(error).startswith(("Can't pickle", "Can't get local")):
            raise
        raise pickle.PicklingError(str(error)) from error
    stream = encoder.alone()
    if stream is None:
        return encoder.frame()
    if idle is not None and len(stream) <= _SHORT and encoder.is_like_new():
        idle[2]()  # its memo
        _idle.append(idle)
    return stream


def _frame_of(obj: object) -> Frame:
    made = pickled(obj)
    return frames.alone(made) if type(made) is bytes else cast("Frame", made)


def _copy(target: Any, source: memoryview) -> None:
    """Copies a piece of a frame into its block; a test that puts another one here runs amid a put.

    The native engine copies by itself as long as nobody does.
    """
    target[:] = source


def decode(view: memoryview, private: Callable[[], memoryview]) -> Any:
    """The object whose frame is `view`; its buffers are slices of `view`, as writable as that is.

    `private()` returns a writable copy-on-write view of the same frame. It is called once, and
    only if the frame holds torch storages. Raises StoreCorruptedError for what is not a frame,
    RefstoreError where torch is needed and missing, and what unpickling raises.
    """
    stream, entries = frames.take_apart(view)
    if not entries:
        return unpickle(stream)
    writable: memoryview | None = None
    buffers: list[object] = []
    for entry in entries:
        offset, nbytes, _, kind = entry
        if kind == frames.PLAIN:
            buffers.append(view[offset : offset + nbytes])
            continue
        if writable is None:
            torch.require_torch()
            writable = private()
        buffers.append(torch.Rebuilt(writable, entry))
    try:
        return unpickle(stream, buffers)
    finally:
        if writable is not None:
            torch.validate_sparse()


def unpickle(stream: memoryview, buffers: Iterable[object] = ()) -> Any:
    """The object whose pickle `stream` is. Raises what unpickling raises."""
    try:
        return pickle.loads(stream, buffers=buffers)
    except (AttributeError, ModuleNotFoundError, EOFError) as error:
        explain(error)
        raise


def explain(error: AttributeError | ModuleNotFoundError | EOFError) -> None:
    """Says what to do about a class or a function that this process does not have.

    UnpicklingError for a pickle that ends too soon.
    """
    traceback = error.__traceback__
    if traceback is None or traceback.tb_next is not None:
        return  # from within the object's own code
    if isinstance(error, EOFError):
        raise pickle.UnpicklingError(f"{error}: the pickle ends before it says so") from None
    if isinstance(error, ModuleNotFoundError):
        error.msg = (
            f"{error.msg}: the object refers to this module, which the process that put it could"
            " import and this one cannot; install it here, or put it on sys.path"
        )
    elif "'__main__'" in str(error) or repr(sys.modules.get("__main__")) in str(error):
        error.args = (
            f"{error}: the object was put by a process whose __main__ is another program; move"
            " what it refers to into a module that both programs import, and put it again",
        )
    else:
        error.args = (
            f"{error}: the object refers to it, and the module of that name in this process does"
            " not have it; both processes need the same version of that module",
        )


class _Encoder:
    """The state of one call of `encode`, and the file that pickle writes to.

    Each piece is kept as it comes instead of being joined with the others. The C pickler hands over
    large bytes objects themselves, so they are copied only once, into their block. A view of each
    piece also stops a bytearray from being resized meanwhile.

    It does not know its pickler, since that would be a cycle.
    """

    __slots__ = ("_buffers", "_pieces", "_storages", "_tables")

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._buffers: list[memoryview | torch.Storage] = []  # in stream order
        self._storages: torch.Storages | None = None
        self._tables: arrow.Tables | None = None

    def pickler(self, made_by: type[pickle.Pickler]) -> pickle.Pickler:
        made = made_by(self, 5, buffer_callback=self._add_buffer)
        theirs = getattr(made, "dispatch_table", copyreg.dispatch_table)
        made.dispatch_table = Reducers(theirs, partial(self._reducer, theirs))
        return made

    def _reducer(self, theirs: Mapping[type, Any], cls: type) -> Reducer | None:
        if self._tables is None:
            self._tables = arrow.Tables()
        storages = self._all_storages()  # so that this serves no other call, with these reducers
        return (
            serializers.reducer(cls)
            or storages.reducer(cls)
            or theirs.get(cls)
            or ndarrays.reducer(cls)
            or self._tables.reducer(cls)
        )

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece if type(piece) is bytes else memoryview(piece))

    def alone(self) -> bytes | None:
        """The pickle, if it is in one piece and has no buffers beside it; else None."""
        if len(self._pieces) != 1 or self._buffers or type(self._pieces[0]) is not bytes:
            return None
        return cast("bytes", self._pieces.pop())

    def is_like_new(self) -> bool:
        """Whether this may serve another call, once its pickle is taken: it knows no types."""
        return self._storages is None

    def frame(self) -> Frame:
        return frames.lay_out(
            [memoryview(piece) for piece in self._pieces],
            [one if isinstance(one, memoryview) else one.run() for one in self._buffers],
        )

    def _all_storages(self) -> torch.Storages:
        if self._storages is None:
            self._storages = torch.Storages()
        return self._storages

    def _add_buffer(self, buffer: pickle.PickleBuffer) -> None:
        # raw() takes contiguous buffers only, and the pickler refuses the others itself.
        by_marker = (self._storages or self._all_storages()).by_marker
        self._buffers.append(by_marker.get(id(buffer)) or buffer.raw())


# What made a short pickle, for the next call: a pickler takes longer to make than a small object to
# pickle. A call takes one away, so that threads and calls within calls have each their own.
_idle: list[tuple[_Encoder, Callable[[object], None], Callable[[], None]]] = []
_SHORT = 512  # bytes; the memory of a pickler that has made a long one would stay
