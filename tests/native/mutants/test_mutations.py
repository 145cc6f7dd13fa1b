"""The known mistakes can still be made: each is the text of the core as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.mutants.mutations import MUTATIONS, Mutation

CORE = Path(__file__).parents[3] / "refstore" / "engines" / "native"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_text_stands_once_in_the_core(mutation: Mutation) -> None:
    assert (CORE / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new


def test_there_are_enough_of_them_and_no_two_of_a_name() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
