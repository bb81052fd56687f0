"""The vocabulary: total functions that are told apart, verbs with three meanings each."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from trainer.tasks.house_dialect.dialect import FAR, SECOND, THIRD, USUAL, draw_dialect, world_dialect
from trainer.tasks.house_dialect.questions import INPUTS
from trainer.tasks.house_dialect.verbs import CONSTANTS, FUNCTIONS, VERBS, Function


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.expression)
@pytest.mark.parametrize("k", CONSTANTS)
def test_a_function_gives_what_python_gives_for_its_source(function: Function, k: int) -> None:
    for x in INPUTS:
        assert function.apply(x, k) == eval(f"{function.expression}{k}", {"x": x})


@pytest.mark.parametrize("k", CONSTANTS)
def test_no_two_functions_are_the_same(k: int) -> None:
    for one, other in combinations(FUNCTIONS, 2):
        assert any(one.apply(x, k) != other.apply(x, k) for x in INPUTS), (one.expression, other.expression)


def test_every_verb_has_three_meanings_and_every_function_is_a_usual_one() -> None:
    assert len({verb.name for verb in VERBS}) == 24
    assert all(len(set(verb.meanings)) == 3 for verb in VERBS)
    assert {verb.meanings[0] for verb in VERBS} == set(FUNCTIONS)


@pytest.mark.parametrize("world_seed", range(20))
def test_every_house_has_as_many_unusual_meanings(world_seed: int) -> None:
    assert Counter(world_dialect(world_seed).choice) == {0: USUAL, 1: SECOND, 2: THIRD}
    assert Counter(world_dialect(world_seed, far=True).choice) == dict(enumerate(FAR))


def test_the_seed_decides_the_dialect() -> None:
    assert world_dialect(4) == world_dialect(4)
    assert len({world_dialect(seed).choice for seed in range(20)}) == 20


def test_no_dialect_of_pre_training_is_a_runs() -> None:
    runs = {world_dialect(seed).choice for seed in range(200)}
    assert not runs & {draw_dialect(f"pretraining:1:{index}").choice for index in range(20_000)}
