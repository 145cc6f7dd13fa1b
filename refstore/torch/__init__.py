"""PyTorch: weights under a name, tensors in queues, data sets and batches, by way of a store.

    refstore.torch.publish(store, "weights", model)             # in the process that trains
    seen = refstore.torch.load(store, "weights", model)         # in those that follow
    seen = refstore.torch.load(store, "weights", model, newer_than=seen)

    refstore.torch.install()                    # tensors in multiprocessing's queues go as refs
    data = refstore.torch.SharedDataset.put(store, samples)     # once in memory, for all workers
    loader = DataLoader(data, collate_fn=refstore.torch.collate(store), num_workers=4)

What is read is each process's own to write: pages that it changes are copied for it alone.
"""

from __future__ import annotations

import contextlib
import operator
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from refstore._extras import missing_extra

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    raise missing_extra("refstore.torch", "torch", error) from error

from refstore._buffers import PinnedBuffer
from refstore._handles import forget
from refstore._refs import ObjectRef
from refstore._store import Store
from refstore.shared import SharedList
from refstore.torch import _messages
from refstore.torch._batches import Collate
from refstore.torch._columns import Columns, Form, OtherFormError
from refstore.torch._cuda import Registration
from refstore.torch._weights import Weights, newest

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Loaded",
    "SharedDataset",
    "collate",
    "install",
    "load",
    "pin_cuda",
    "publish",
    "uninstall",
]

VARIABLE = "REFSTORE_TORCH"  # in the environment of children: the store of install()

_lock = threading.RLock()
_sender: _messages.Sender | None = None
_is_made_here = False  # whether its store goes by uninstall()


# --- weights


class Loaded(NamedTuple):
    """Version of a state dict that `load()` has read.

    Parameters:
        ref: the object; with `newer_than=`, a later `load()` waits for another one.
        state_dict: the tensors, over the object's memory, if no module was given; else None.
        missing_keys: as `load_state_dict()` returns them.
        unexpected_keys: likewise.

    Example:
        >>> import torch
        >>> ref = refstore.torch.publish(store, "weights", {"w": torch.ones(3)})
        >>> refstore.torch.load(store, "weights").ref == ref
        True
    """

    ref: ObjectRef
    state_dict: Any
    missing_keys: list[str]
    unexpected_keys: list[str]


def publish(
    store: Store,
    name: str,
    module_or_state_dict: Any,
    *,
    timeout: float | None = 0,
    owned: bool = False,
    evictable: bool | None = None,
    meta: bytes = b"",
) -> ObjectRef:
    """Puts the tensors of a module or a state dict under a name, in the place of earlier ones.

    They are one object: whoever reads it has all of one version, and keeps that as long as it is
    used. Tensors that share memory share it in the object; what is stored of a view is what it
    shows. Tensors of a GPU are copied to the CPU first. `store.get(name).value` is the state dict.

    Parameters:
        store: the store.
        name: the name, such as "weights".
        module_or_state_dict: a module, or a state dict: of a module, an optimizer, or a dict of
            one's own with tensors and other values in it.
        timeout: seconds to wait for room; None: for ever. There must be room for a version while
            another one is being read.
        owned: whether the object goes with this process.
        evictable: whether it may go when others need its room.
        meta: bytes of one's own.

    Returns:
        The object's ref.

    Errors:
        TypeError: it is something else, or a tensor has no data.
        StoreFullError, ValueError: as of `Store.put()`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> ref = refstore.torch.publish(store, "weights", model)
        >>> sorted(store.get("weights").value)
        ['bias', 'weight']
    """
    return store.put(
        Weights(module_or_state_dict),
        name=name,
        replace=True,
        timeout=timeout,
        owned=owned,
        evictable=evictable,
        meta=meta,
    )


def load(
    store: Store,
    name: str,
    module: torch.nn.Module | None = None,
    newer_than: Loaded | ObjectRef | None = None,
    *,
    timeout: float | None = None,
    strict: bool = True,
    assign: bool = False,
) -> Loaded:
    """Reads what `publish()` has put: into a module, or as a state dict.

    It waits until there is a version other than `newer_than`. The module's own tensors get the
    values, and nothing stays pinned. With `assign=True` the module gets tensors over the object's
    memory in their place, without a copy: the object is pinned as long as one of them is used, and
    what is written to them stays in this process, whose copies of the written pages they are then.
    So it is with the state dict that is returned if no module is given.

    Parameters:
        store: the store.
        name: the name.
        module: where to; None: the state dict is wanted.
        newer_than: what an earlier call returned, or a ref: that version will not do.
        timeout: seconds to wait; None: for ever, 0: not at all.
        strict: whether the keys have to be those of the module, as of `load_state_dict()`.
        assign: whether the module's tensors are replaced, as of `load_state_dict()`.

    Returns:
        The version.

    Errors:
        GetTimeoutError: there was none in that time.
        RuntimeError: keys or shapes do not fit; torch's own, and it has copied what fits.
        TypeError: the object is no state dict.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> _ = refstore.torch.publish(store, "weights", model)
        >>> seen = refstore.torch.load(store, "weights", model)
        >>> try:
        ...     refstore.torch.load(store, "weights", model, newer_than=seen, timeout=0.01)
        ... except refstore.GetTimeoutError:
        ...     print("nothing newer")
        nothing newer
    """
    known = newer_than.ref if isinstance(newer_than, Loaded) else newer_than
    buf, state = newest(store, name, known, timeout)
    with buf:
        if not isinstance(state, Mapping):
            raise TypeError(f"object {name!r} in store {store.path!r} is no state dict")
        if module is None:
            return Loaded(buf.ref, state, [], [])
        keys = module.load_state_dict(state, strict=strict, assign=assign)
        return Loaded(buf.ref, None, keys.missing_keys, keys.unexpected_keys)


# --- messages


def install(store: Store | None = None) -> Store:
    """Has tensors in multiprocessing's queues, pipes and pools go by way of a store, as refs.

    It is for each process that sends, and `torch.multiprocessing` and `multiprocessing` alike;
    those that read need not call it. What was sent is a copy of its own: the reader may write to
    it, and neither side sees what the other one writes. Tensors that were moved to torch's shared
    memory by `share_memory_()` go as ever, and stay shared.

    Parameters:
        store: the store; None: one that the first process to call this makes, a temporary one.
            Children that it starts later use that, too.

    Returns:
        The store that is used.

    Errors:
        OSError, ValueError: the store cannot be made or opened; as of `Store()`.

    Example:
        >>> import torch, multiprocessing, refstore.torch
        >>> _ = refstore.torch.install(store)
        >>> here, there = multiprocessing.Pipe()
        >>> here.send(torch.ones(100_000))
        >>> there.recv().sum()
        tensor(100000.)
        >>> refstore.torch.uninstall()
        >>> here.close(), there.close()
        (None, None)
    """
    global _is_made_here, _sender
    with _lock:
        if _sender is not None and not _sender.store.closed and store in (None, _sender.store):
            return _sender.store
        uninstall()
        is_made_here = False
        if store is None:
            store, is_made_here = _common_store()
        _sender = _messages.Sender(store)
        _is_made_here = is_made_here
        _messages.set_sender(_sender)
        if is_made_here:
            os.environ[VARIABLE] = store.path
        return store


def _common_store() -> tuple[Store, bool]:
    """The store that a parent has made, or one that is made now, and whether it is."""
    path = os.environ.get(VARIABLE)
    if path:
        with contextlib.suppress(FileNotFoundError):
            return Store(path, create=False), False
    return Store.temporary(), True


def uninstall() -> None:
    """Has tensors sent by torch as ever. What was sent and nobody has read is deleted.

    Stores that this process has opened to read messages are closed, too. Tensors that were received
    stay valid.

    Example:
        >>> import refstore.torch
        >>> refstore.torch.uninstall()
    """
    global _is_made_here, _sender
    with _lock:
        sender, _sender = _sender, None
        forget()
        if sender is None:
            return
        _messages.set_sender(None)
        sender.close()
        if _is_made_here:
            _is_made_here = False
            if os.environ.get(VARIABLE) == sender.store.path:
                del os.environ[VARIABLE]
            sender.store.close()


# --- data


def collate(store: Store, collate_fn: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    """Returns a function for `DataLoader(collate_fn=)` that has workers write batches to a store.

    A worker stacks the samples where the batch will lie, as `default_collate()` does, and hands
    over a ref; the loader gets tensors over that memory, which it may write to. A batch is freed
    with its last tensor. Those that nobody has taken go with the worker, also if it is killed. A
    batch for which there is no room goes torch's way.

    Parameters:
        store: the store, with room for the batches that are in use and those that workers make in
            advance: `num_workers * prefetch_factor`.
        collate_fn: makes a batch of samples; the tensors in its dicts, lists and tuples are put.
            By default, what `default_collate()` does.

    Returns:
        The function, which pickles. Where there are no workers it puts nothing.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader([1.0, 2.0], batch_size=2, collate_fn=refstore.torch.collate(store))
        >>> next(iter(loader))
        tensor([1., 2.], dtype=torch.float64)
    """
    return Collate(store, collate_fn)


class SharedDataset(Dataset):  # type: ignore[misc]  # torch is not there then
    """A map-style data set whose samples lie in a store, once for all processes that use it.

    Samples are structures (dicts, lists, tuples) of tensors, arrays and numbers. If all have the
    types, dtypes and shapes of the first one, a sample's tensors are views of the shared memory.
    Otherwise each sample is unpickled when it is asked for, its tensors over that memory. Either
    way what is written to them is this process's own, as with a data set in a list: it is there
    when that sample comes again, if all samples are of one form.

    It pins its object until it is closed or collected, and pickles as a handle, so that workers of
    a DataLoader have it whatever way they are started.

    Parameters:
        store: the store.
        key: the ref or name of the object.

    Errors:
        ObjectNotFoundError: there is no such object.
        TypeError: the object has no samples.

    Example:
        >>> import torch
        >>> from refstore.torch import SharedDataset
        >>> with SharedDataset.put(store, [(torch.ones(2), 0), (torch.zeros(2), 1)]) as data:
        ...     len(data), data[1]
        (2, (tensor([0., 0.]), 1))
    """

    _samples: Columns | SharedList | None

    def __init__(self, store: Store, key: ObjectRef | str) -> None:
        self._store: Store | None = store
        with store.get(key, writable=True) as buf:
            self._ref = buf.ref
            self._samples = _samples_in(buf, store)
            self._count = (
                self._samples.count if isinstance(self._samples, Columns) else len(self._samples)
            )

    @classmethod
    def put(
        cls,
        store: Store,
        samples: Iterable[Any],
        name: str | None = None,
        *,
        replace: bool = False,
        timeout: float | None = 0,
        owned: bool = False,
        evictable: bool | None = None,
    ) -> Self:
        """Stores samples as one object, and opens it.

        Parameters:
            store: where to.
            samples: a map-style data set, a sequence, or an iterable, which is made a list first.
                Samples of one form are written one by one, as they come; others are gathered.
            name: the object's name; the others are as of `store.put()`.
            replace: whether an object that has the name goes.
            timeout: seconds to wait for room.
            owned: whether the object goes with this process.
            evictable: whether it may go when others need its room.

        Returns:
            The data set.

        Errors:
            TypeError, pickle.PicklingError: a sample cannot be pickled.
            StoreFullError, ObjectExistsError, ValueError: as of `Store.put()`.

        Example:
            >>> from refstore.torch import SharedDataset
            >>> with SharedDataset.put(store, ["a text", "another"], name="texts") as data:
            ...     data[-1]
            'another'
        """
        options: dict[str, Any] = {
            "name": name,
            "replace": replace,
            "timeout": timeout,
            "owned": owned,
            "evictable": evictable,
        }
        if not (hasattr(samples, "__getitem__") and hasattr(samples, "__len__")):
            samples = list(samples)
        source: Any = samples
        with contextlib.suppress(OtherFormError):
            return cls(store, _put_columns(store, source, options))
        each = (source[i] for i in range(len(source)))
        with SharedList.put(store, each, **options) as made:
            return cls(store, made.ref)

    @property
    def ref(self) -> ObjectRef:
        """The ref of the object that has the samples.

        Example:
            >>> from refstore.torch import SharedDataset
            >>> with SharedDataset.put(store, [1, 2], name="data") as data:
            ...     data.ref == store.ref("data")
            True
        """
        return self._ref

    def close(self) -> None:
        """Unpins the samples; a second call does nothing. Tensors that were taken stay valid.

        Example:
            >>> from refstore.torch import SharedDataset
            >>> data = SharedDataset.put(store, [1, 2])
            >>> data.close()
        """
        if isinstance(self._samples, SharedList):
            self._samples.close()
        self._samples = self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> Any:
        samples, at = self._samples, operator.index(index)
        if samples is None:
            raise ValueError("this SharedDataset is closed")
        if not -self._count <= at < self._count:
            raise IndexError(f"there is no sample {at} in a SharedDataset of {self._count}")
        at %= self._count
        return samples.sample(at) if isinstance(samples, Columns) else samples[at]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._store is None:
            raise ValueError("a SharedDataset that is closed cannot be pickled")
        return type(self), (self._store, self._ref)


def _samples_in(buf: PinnedBuffer, store: Store) -> Columns | SharedList:
    if Columns.are_in(buf):
        return Columns(buf)
    try:
        return SharedList(store, buf.ref)
    except TypeError:
        raise TypeError(
            f"object {buf.ref!r} in store {store.path!r} has no samples: give what "
            "SharedDataset.put() or SharedList.put() made"
        ) from None


def _put_columns(store: Store, samples: Any, options: dict[str, Any]) -> ObjectRef:
    """Puts samples of one form. Errors: OtherFormError."""
    count = len(samples)
    if not count:
        raise OtherFormError
    form = Form(samples[0], count)
    with store.create(form.nbytes, **options) as writer:
        form.write(torch.frombuffer(memoryview(writer), dtype=torch.uint8), samples.__getitem__)
    return writer.ref


# --- CUDA


def pin_cuda(store: Store) -> Registration:
    """Registers a store's memory with CUDA, so that copies to a GPU can run on their own.

    `torch.from_numpy(buf.array).to("cuda", non_blocking=True)` of what was got is such a copy then.
    Keep the buffer until the copy has ended. Only arrays that were got read-only lie in that
    memory: private copies, as of `get(writable=True)` and of tensors inside objects, do not.

    All of the store's capacity becomes memory that is locked: use a store that is no larger than it
    has to be. Do not call `trim()` while it is registered: CUDA would go on to read the pages that
    were given back.

    Parameters:
        store: the store.

    Returns:
        The registration, with `close()`, also by `with`. Close it before the store.

    Errors:
        RefstoreError: CUDA is not there, or does not take the memory.

    Example:
        >>> with refstore.torch.pin_cuda(store):  # doctest: +SKIP
        ...     torch.from_numpy(store["batch"].array).to("cuda", non_blocking=True)
    """
    return Registration(store)
