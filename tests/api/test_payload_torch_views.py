"""Views of tensors: what they show is stored, and those that share memory share it again."""

from __future__ import annotations

from typing import Any

import libraries
import pytest

import refstore

torch = libraries.Late("torch")

pytestmark = libraries.needed("torch")

SIDE = 1000


def big() -> Any:
    return torch.arange(SIDE * SIDE, dtype=torch.int32).reshape(SIDE, SIDE)


def base_shown(views: Any) -> int:
    return sum(view.numel() * view.element_size() for view in views)


SPARSE: dict[str, Any] = {
    "eight rows": lambda t: [t[i * 111] for i in range(8)],
    "a column": lambda t: [t[:, 5]],
    "two columns": lambda t: [t[:, 5], t[:, 700]],
    "a block": lambda t: [t[::100, 5:9].t()],
    "rows and columns apart": lambda t: [t[10, :100], t[20:30, 500], t[40:, 700]],
    "every tenth": lambda t: [t.view(-1)[::10]],
    "windows with gaps": lambda t: [t.view(-1).unfold(0, 10, 100)],
    "of two widths": lambda t: [t.view(-1)[::100], t.view(torch.int64).view(-1)[7::50]],
    "one element of each row": lambda t: [t[i, i] for i in range(0, SIDE, 100)],
    "expanded": lambda t: [t[:, 5, None].expand(-1, 50)],
}


@pytest.mark.parametrize("kind", SPARSE)
def test_what_is_stored_is_what_is_shown(store: refstore.Store, kind: str) -> None:
    views = SPARSE[kind](big())
    shown = base_shown([one[:, 0] if kind == "expanded" else one for one in views])
    with store.get(store.put(views)) as buf:
        assert buf.nbytes < 2 * shown + 8192
        back = buf.value
        for got, put in zip(back, views, strict=True):
            assert torch.equal(got, put)
        assert len({one.untyped_storage()._cdata for one in back}) == 1
        del back, got


SHARING: dict[str, Any] = {  # and where a write to the first shows in the second
    "a column and a part of it": (lambda t: [t[:, 5], t[100:200, 5]], (102,), (2,)),
    "a column and some of it": (lambda t: [t[:, 5], t[::3, 5]], (9,), (3,)),
    "rows and one of them": (lambda t: [t[::100], t[200]], (2, 7), (7,)),
    "rows and a column of them": (lambda t: [t[::100], t[::100, 7]], (2, 7), (2,)),
    "a block and its transpose": (lambda t: [t[::50, :10], t[::50, :10].t()], (3, 4), (4, 3)),
    "all and a column": (lambda t: [t, t[:, 5]], (8, 5), (8,)),
    "a row across a column": (lambda t: [t[500], t[:, 5]], (5,), (500,)),
    "overlapping windows": (lambda t: [t.view(-1)[:900], t.view(-1)[500:2000]], (600,), (100,)),
}


@pytest.mark.parametrize("kind", SHARING)
def test_views_that_share_memory_share_it_again(store: refstore.Store, kind: str) -> None:
    make, here, there = SHARING[kind]
    views = make(big())
    with store.get(store.put(views)) as buf:
        back = buf.value
        for got, put in zip(back, views, strict=True):
            assert torch.equal(got, put)
        back[0][here] = -7
        assert back[1][there] == -7
        assert sum(int((one == -7).sum()) for one in back) == 2
        if kind != "a row across a column":
            assert buf.nbytes < 2 * max(base_shown([one]) for one in views) + 8192
        del back, got


def test_views_of_one_tensor_do_not_run_into_each_other(store: refstore.Store) -> None:
    base = big()
    views = [base[3], base[:, 5][::7], base[900:, 990:], base[10:10], base[4, ::3]]
    with store.get(store.put(views)) as buf:
        for i in range(len(views)):
            back = buf.value
            back[i].zero_()
            fresh = big()
            same = [fresh[3], fresh[:, 5][::7], fresh[900:, 990:], fresh[10:10], fresh[4, ::3]]
            same[i].zero_()
            for got, put in zip(back, same, strict=True):
                assert torch.equal(got, put)
            del back, got
            buf.release()
            buf = store.get(store.put(views))
        buf.release()
