"""Tensors put by themselves: the first of its form is pickled, and later ones go by its front."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import helpers
import libraries
import pytest

import refstore

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


@pytest.mark.parametrize("kept", [{}, {"t": 1}], ids=["alone", "in a dict"])
def test_what_is_put_can_still_be_resized(store: refstore.Store, kept: dict[str, Any]) -> None:
    tensor = torch.ones(30)
    for _ in range(2):
        ref = store.put({**kept, "t": tensor} if kept else tensor)
    tensor.resize_(100_000)
    tensor.untyped_storage().resize_(0)
    with store.get(ref) as buf:
        back = buf.value["t"] if kept else buf.value
        assert torch.equal(back, torch.ones(30))


@pytest.mark.parametrize("batch", [False, True], ids=["put", "put_many"])
@pytest.mark.parametrize("alone", [False, True], ids=["in a dict", "alone"])
def test_a_tensor_resized_while_its_put_waits_is_refused(
    store: refstore.Store, batch: bool, alone: bool
) -> None:
    def tensor_of(value: float) -> Any:
        return torch.full((20_000,), value)

    tensor = tensor_of(1.0)
    store.delete(store.put(tensor))  # the first of its form
    filler = store.put(bytes(store.stats().capacity - 20_000))
    errors: list[BaseException] = []

    def put() -> None:
        what = tensor if alone else {"t": tensor}
        try:
            if batch:
                store.put_many([what], timeout=60)
            else:
                store.put(what, timeout=60)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    helpers.eventually(lambda: store.stats().waiting > 0)
    tensor.resize_(5_000_000)
    store.delete(filler)
    thread.join()
    (error,) = errors
    assert isinstance(error, refstore.RefstoreError)
    assert "another size while it was put" in str(error)
    assert len(store) == 0
    helpers.assert_full_capacity_fits(store)


def test_zeros_without_memory_are_refused_as_torch_does(store: refstore.Store) -> None:
    store.delete(store.put(torch.zeros(30)))
    with pytest.raises(RuntimeError, match="not serializable"):
        store.put(torch.ops.aten._efficientzerotensor([30]))
    assert len(store) == 0


def test_a_serializer_for_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="Tensor"):
        refstore.register_serializer(torch.Tensor, bytes, bytes)
