"""How stores and buffers show themselves, as text and in notebooks."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import refstore


class Cells(HTMLParser):
    """The texts of the cells of a table, by the heads beside them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._tags: list[str] = []
        self._head = ""
        self.feed(html)
        assert self._tags == [], "all that is opened is closed"

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._tags[-1] == "th":
            self._head = data
        elif self._tags[-1] == "pre":
            self.found[self._head] = data


def shown(what: Any) -> dict[str, str]:
    return Cells(what._repr_html_()).found


def test_a_notebook_shows_a_stores_figures(store: refstore.Store) -> None:
    store.put(bytes(1 << 20))
    assert shown(store) == {
        "path": store.path,
        "engine": store.backend,
        "used": "1.0 MiB of 16.0 MiB (6 %)",
        "largest free": "15.0 MiB",
        "objects": "1, 0 pinned, 0 pending delete",
        "processes": "1",
    }
    store.close()
    assert "open it anew" in store._repr_html_()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"<b>", "bytes"), (np.zeros((200, 300), "f4"), "array"), ({"a": 1}, "object")],
    ids=["bytes", "array", "object"],
)
def test_a_notebook_shows_a_buffers_figures(store: refstore.Store, value: Any, kind: str) -> None:
    with store.get(store.put(value)) as buf:
        found = shown(buf)
        assert (found["kind"], found["ref"]) == (kind, buf.ref.hex())
        if kind == "array":
            assert (found["shape"], found["dtype"]) == ("(200, 300)", "float32")
            assert len(found["array"]) < 300
    assert "&lt;PinnedBuffer, closed" in buf._repr_html_()
    assert store.check() == []


def test_what_is_closed_says_what_to_do(store: refstore.Store) -> None:
    buf = store.get(store.put(b"x"))
    assert "closed" not in repr(buf)
    buf.release()
    assert repr(buf) == "<PinnedBuffer, closed: get() the object again to use it>"
    store.close()
    assert repr(store) == "<Store, closed: open it anew to use it>"
