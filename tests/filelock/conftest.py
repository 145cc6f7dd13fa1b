"""A small process for trials by the hundred, each of which forks."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from unittest import mock

import engines
import pytest
import workers
from children import child_process

from tests.filelock import kills


@pytest.fixture(scope="module")
def play() -> Iterator[kills.Play]:
    """Call a function in a small process: one with pytest and thousands of tests forks slowly."""
    with (
        mock.patch.dict(os.environ, {engines.VARIABLE: "filelock"}),
        child_process(None) as child,
    ):
        child.do(workers.call, kills.get_ready)
        yield functools.partial(child.do, workers.call)
