"""The functions of the world: total, told apart, and named without overlap."""

from __future__ import annotations

import keyword
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS, NAME_PRIOR, Concept


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.usual)
@given(x=st.integers(), k=st.sampled_from(CONSTANTS))
def test_a_function_is_total_and_grows_by_a_small_factor(concept: Concept, x: int, k: int) -> None:
    result = concept.apply(x, k)
    assert type(result) is int
    assert abs(result) <= 32 * (abs(x) + k)


@pytest.mark.parametrize("k", CONSTANTS)
def test_no_two_functions_are_the_same(k: int) -> None:
    for one, other in combinations(CONCEPTS, 2):
        assert any(one.apply(x, k) != other.apply(x, k) for x in range(-40, 100)), (one.usual, other.usual)


def test_no_two_functions_share_a_name_or_a_phrase() -> None:
    names = [name for concept in CONCEPTS for name in concept.names]
    assert len(CONCEPTS) == 24
    assert len(set(names)) == 24 * len(NAME_PRIOR)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    assert len({concept.phrase for concept in CONCEPTS}) == 24
