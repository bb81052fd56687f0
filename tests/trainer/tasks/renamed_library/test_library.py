"""The library of a run: every function renamed, the module real, its errors helpful."""

from __future__ import annotations

import types

import pytest

from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS
from trainer.tasks.renamed_library.library import Library, draw_library, world_library


def module_of(library: Library) -> types.ModuleType:
    module = types.ModuleType("lib")
    exec(library.source, module.__dict__)
    return module


@pytest.mark.parametrize("world_seed", range(5))
def test_every_function_has_one_of_its_rare_names_and_does_what_its_concept_does(world_seed: int) -> None:
    library = world_library(world_seed)
    module = module_of(library)
    for concept in CONCEPTS:
        assert library.real(concept) in concept.names[1:]
        function = getattr(module, library.real(concept))
        assert all(function(x, k) == concept.apply(x, k) for x in range(-20, 60) for k in CONSTANTS)


def test_every_other_name_of_a_function_raises_an_error_that_gives_the_new_name() -> None:
    library = world_library(3)
    module = module_of(library)
    for concept in CONCEPTS:
        for old in set(concept.names) - {library.real(concept)}:
            with pytest.raises(AttributeError) as raised:
                getattr(module, old)
            hint = f"it was renamed to '{library.real(concept)}'"
            assert str(raised.value) == f"module 'lib' has no attribute '{old}', {hint}" == library.missing(old)


def test_a_name_nobody_knows_raises_a_plain_error() -> None:
    library = world_library(3)
    with pytest.raises(AttributeError) as raised:
        module_of(library).nonsense  # noqa: B018
    assert str(raised.value) == "module 'lib' has no attribute 'nonsense'" == library.missing("nonsense")


def test_the_seed_decides_the_library() -> None:
    assert world_library(4) == world_library(4)
    assert len({world_library(seed).choice for seed in range(20)}) == 20


def test_no_library_of_pre_training_is_a_runs() -> None:
    runs = {world_library(seed).choice for seed in range(200)}
    assert not runs & {draw_library(f"pretraining:1:{index}").choice for index in range(20_000)}
