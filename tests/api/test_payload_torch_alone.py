"""Tensors put by themselves: the first of its form is pickled, and later ones go by its front."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import threading
from collections.abc import Callable
from typing import Any

import helpers
import libraries
import pytest

import refstore
from refstore import payload

torch = libraries.Late("torch")

pytestmark = [
    libraries.needed("torch"),
    pytest.mark.filterwarnings("ignore:(TypedStorage|torch.quantize).*deprecated:UserWarning"),
]

FORMS: dict[str, Callable[[], Any]] = {
    "vector": lambda: torch.rand(30),
    "matrix": lambda: torch.rand(5, 6),
    "another matrix": lambda: torch.rand(6, 5),
    "number": lambda: torch.rand(()),
    "bytes": lambda: torch.randint(256, (30,), dtype=torch.uint8),
    "as many signed bytes": lambda: torch.randint(100, (30,), dtype=torch.int8),
    "bools": lambda: torch.rand(30) < 0.5,
    "bfloat16": lambda: torch.rand(30).to(torch.bfloat16),
    "float16": lambda: torch.rand(30).to(torch.float16),
    "complex": lambda: torch.rand(30, dtype=torch.complex64),
    "part of a storage": lambda: torch.rand(90)[30:60],
    "one row, strange steps": lambda: torch.rand(900).as_strided((1, 30), (77, 1)),
    "nine axes": lambda: torch.rand(1, 2, 1, 2, 1, 2, 1, 2, 2),
    "with gradient": lambda: torch.rand(30).requires_grad_(),
    "computed with gradient": lambda: torch.rand(30).requires_grad_() * 2,
    "large": lambda: torch.rand(50_000),
}
OTHERS: dict[str, Callable[[], Any]] = {  # whose elements are not all that they are
    "transposed": lambda: torch.rand(5, 6).t(),
    "with gaps": lambda: torch.rand(60)[::2],
    "expanded": lambda: torch.rand(1).expand(30),
    "conjugated": lambda: torch.rand(30, dtype=torch.complex64).conj(),
    "negated": lambda: torch.rand(30, dtype=torch.complex64).conj().imag,
    "negated without gaps": lambda: torch.ops.aten._neg_view(torch.rand(30)),
    "sparse": lambda: torch.eye(5).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.rand(30), 0.1, 3, torch.quint8),
    "of no elements": lambda: torch.rand(0, 3),
    "with an attribute": lambda: with_note(torch.rand(30)),
}


def with_note(tensor: Any) -> Any:
    tensor.note = "kept"
    return tensor


def assert_same(got: Any, put: Any) -> None:
    assert type(got) is type(put)
    assert (got.dtype, got.shape, got.layout) == (put.dtype, put.shape, put.layout)
    assert got.requires_grad == put.requires_grad
    assert got.is_quantized == put.is_quantized
    assert got.__dict__ == put.__dict__
    if put.layout is torch.strided and put.is_contiguous():
        assert got.stride() == put.stride()
    assert torch.equal(got.detach().to_dense(), put.detach().to_dense())


@pytest.mark.parametrize("form", [*FORMS, *OTHERS])
def test_later_tensors_of_a_form_come_back(store: refstore.Store, form: str) -> None:
    make = (FORMS | OTHERS)[form]
    tensors = [make() for _ in range(3)]
    refs = [store.put(tensor) for tensor in tensors]
    for ref, tensor in zip(refs, tensors, strict=True):
        with store.get(ref) as buf:
            assert buf.kind == "object"
            assert_same(buf.value, tensor)


def test_tensors_of_all_forms_in_turn_come_back(store: refstore.Store) -> None:
    """Also those that have one's bytes and shape, and another dtype."""
    for _ in range(3):
        for make in [*FORMS.values(), *OTHERS.values()]:
            tensor = make()
            with store.get(store.put(tensor)) as buf:
                assert_same(buf.value, tensor)


def test_more_forms_than_are_kept_come_back(store: refstore.Store) -> None:
    for n in [*range(1, 1100), *range(1, 100)]:
        tensor = torch.full((n,), float(n))
        ref = store.put(tensor)
        with store.get(ref) as buf:
            assert torch.equal(buf.value, tensor)
        store.delete(ref)


@pytest.mark.parametrize("form", FORMS)
def test_a_later_tensor_is_stored_as_the_first(store: refstore.Store, form: str) -> None:
    tensor = FORMS[form]()
    copies = []
    for _ in range(3):
        with store.get(store.put(tensor)) as buf:
            copies.append(bytes(buf))
    assert copies[0] == copies[1] == copies[2]


CHANGES: dict[str, Callable[[Any], None]] = {
    "other memory": lambda t: setattr(t, "data", torch.full_like(t.data, 7.0)),
    "larger": lambda t: setattr(t, "data", torch.full((900_000,), 7.0)),
    "another dtype": lambda t: setattr(t, "data", torch.full(t.shape, 7, dtype=torch.int32)),
    "another shape": lambda t: t.unsqueeze_(0),
    "of nothing": lambda t: setattr(t, "data", torch.empty(0)),
}


@pytest.mark.parametrize("batch", [False, True], ids=["put", "put_many"])
@pytest.mark.parametrize("alone", [False, True], ids=["in a dict", "alone"])
@pytest.mark.parametrize("n", [300, 50_000])
@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_that_changes_while_its_put_waits_is_whole(
    make_store: Callable[..., refstore.Store], change: str, n: int, alone: bool, batch: bool
) -> None:
    store = make_store("5MiB", max_objects=64)
    tensor = torch.full((n,), 1.0)
    store.delete(store.put(tensor))  # the first of its form
    helpers.put_until_full(store, itertools.repeat(b""))
    found: list[Any] = []

    def put() -> None:
        what = tensor if alone else {"t": tensor}
        try:
            found.append(
                (store.put_many([what], timeout=60) if batch else [store.put(what, timeout=60)])[0]
            )
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    helpers.eventually(lambda: store.stats().waiting > 0 or not thread.is_alive())
    CHANGES[change](tensor)
    store.clear()
    thread.join()
    (got,) = found
    if isinstance(got, refstore.ObjectRef):
        with store.get(got) as buf:
            back = buf.value if alone else buf.value["t"]
            value = back[0].item() if change == "other memory" else 1.0
            assert value in (1.0, 7.0)
            assert_same(back, torch.full((n,), value))
            del back
        store.delete(got)
    else:
        assert isinstance(got, refstore.RefstoreError)
        assert "changed during the put" in str(got)
    assert len(store) == 0
    helpers.assert_full_capacity_fits(store)


def test_a_front_is_kept_for_the_form_that_was_pickled(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = payload.pickled
    tensor: Any = torch.rand(4, 6)

    def and_reshape(obj: Any) -> Any:
        if obj is tensor:
            obj.resize_(6, 4)
        return pickled(obj)

    monkeypatch.setattr(payload, "pickled", and_reshape)
    store.put(torch.rand(3))
    for _ in range(3):
        store.put(tensor)
        other = torch.rand(4, 6)
        with store.get(store.put(other)) as buf:
            assert_same(buf.value, other)
        tensor.resize_(4, 6)


@pytest.mark.parametrize(
    "name", ["int1", "int3", "int7", "int8", "uint1", "uint4", "uint7", "uint8", "bool", "bits8"]
)
def test_dtypes_of_one_size_are_told_apart(store: refstore.Store, name: str) -> None:
    others = [torch.uint8, torch.int8, torch.bool]
    dtype = getattr(torch, name)
    for each in (dtype, *others, dtype, *others):
        with store.get(store.put(torch.empty(11, dtype=each))) as buf:
            assert buf.value.dtype is each


@pytest.mark.parametrize("name", ["qint8", "quint8", "qint32"])
def test_numbers_seen_as_quantized_ones_come_back(store: refstore.Store, name: str) -> None:
    dtype = getattr(torch, name)
    numbers = torch.arange(30, dtype=torch.int32 if name == "qint32" else torch.int8)
    with store.get(store.put([numbers.view(dtype)])) as buf:
        (back,) = buf.value  # torch crashes if it is shown, or seen as numbers
        assert back.dtype is dtype
        assert back.shape == numbers.shape
        assert bytes(back.untyped_storage()) == bytes(numbers.untyped_storage())
        del back


def test_what_a_handler_raises_amid_a_read_comes_out(store: refstore.Store) -> None:
    class Stop(RuntimeError):
        pass

    def stop(*_: object) -> None:
        if reading:
            raise Stop

    def read_until(seconds: float) -> None:
        reading.add("this")
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
        try:
            while True:
                assert buf.value
        finally:
            reading.clear()

    reading: set[str] = set()

    ref = store.put([torch.rand(3, 3) for _ in range(2000)])
    before = signal.signal(signal.SIGALRM, stop)
    gc.disable()  # libraries have callbacks there, and Python goes on after what these raise
    try:
        for k in range(50):
            with store.get(ref) as buf, pytest.raises(Stop):
                read_until(0.0005 + k * 1e-5)
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_tensor_that_grows_while_its_object_is_pickled_is_as_it_was(
    store: refstore.Store,
) -> None:
    tensor = torch.ones(10)

    class Grow:
        def __reduce__(self) -> Any:
            with contextlib.suppress(RuntimeError):  # of torch
                tensor.resize_(100)
            return int, ()

    with store.get(store.put([tensor, Grow()])) as buf:
        assert torch.equal(buf.value[0], torch.ones(10))


def test_zeros_without_memory_are_refused_as_torch_does(store: refstore.Store) -> None:
    store.delete(store.put(torch.zeros(30)))
    with pytest.raises(RuntimeError, match="not serializable"):
        store.put(torch.ops.aten._efficientzerotensor([30]))
    assert len(store) == 0


def test_a_serializer_for_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="Tensor"):
        refstore.register_serializer(torch.Tensor, bytes, bytes)
