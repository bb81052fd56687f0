"""Ranks that train an adapter: the losses and weights of one rank, the same bits on each, and files that rank 0 alone
writes."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import assert_as_one, assert_same, learn, on_ranks, settings_of
from trainer_builders import random_groups

from shared.settings import Settings
from trainer.batch_store import StepBatch
from trainer.checkpoint_files import checkpoint_file
from trainer.publisher import Files
from trainer.ranks import ALONE, Ranks
from trainer.training import Training

VPD = {"name": "vpd", "e_step": {"every": 2, "buffer_steps": 2, "gradient_steps": 2}}
DROPOUT = {"algorithm": VPD, "lora": {"rank": 4, "dropout": 0.3}}
CASES: dict[str, dict[str, Any]] = {
    "as it is": {"algorithm": VPD, "learner": {"diagnose_every": 1}},
    "clipped, in many passes": {
        "algorithm": {**VPD, "teacher": {"weights": "separate"}, "e_step": {"every": 1, "prior": "fixed"}},
        "learner": {"microbatch_tokens": 150},
        "optimizer": {"warmup_steps": 0, "max_grad_norm": 1e-3},
    },
    "dropout": DROPOUT,
    "dropout, stopped": DROPOUT,
}
STEPS = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path) -> dict[str, Settings]:
    """Of each case, its run in a directory of its own."""
    return {
        case: settings_of(tiny_model_directory, tmp_path_factory.mktemp("run"), **{"lora": {"rank": 4}} | changes)
        for case, changes in CASES.items()
    }


@pytest.fixture(scope="module")
def two(settings: dict[str, Settings]) -> dict[str, Any]:
    """What each case comes to on two ranks, by rank; the one that is stopped has two parts."""
    *undisturbed, stopped = CASES
    calls = {case: partial(learn, settings=settings[case], begin=0, end=STEPS, save=True) for case in undisturbed}
    calls["begun"] = partial(learn, settings=settings[stopped], begin=0, end=STEPS - 1, save=True)
    calls[stopped] = partial(learn, settings=settings[stopped], begin=STEPS - 1, end=STEPS, resume=True)
    return dict(zip(calls, zip(*on_ranks(2, *calls.values(), lora=True), strict=True), strict=True))


@pytest.mark.parametrize("case", ["as it is", "clipped, in many passes"])
def test_two_ranks_have_the_losses_and_the_adapter_of_one(
    two: dict[str, Any], settings: dict[str, Settings], case: str
) -> None:
    one = learn(ALONE, settings[case], 0, STEPS)
    assert_as_one(two[case][0], one)
    assert all(".lora_" in name for name in one["at_end"] if name.startswith("/policy/"))
    clipped = [metrics["m_step/grad_norm"] > 1e-3 for metrics in one["metrics"]]
    assert all(clipped) or case == "as it is"


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_end_with_the_same_weights_to_the_last_bit(two: dict[str, Any], case: str) -> None:
    first, second = two[case]
    assert_same(second["at_end"], first["at_end"])
    assert second["digest"] == first["digest"]


@pytest.mark.parametrize("case", ["clipped, in many passes"])
def test_a_checkpoint_of_two_ranks_is_gone_on_from_by_one_and_then_by_two(
    two: dict[str, Any], settings: dict[str, Settings], tmp_path: Path, case: str
) -> None:
    shutil.copytree(Path(settings[case].run.dir) / "checkpoints", tmp_path / "checkpoints")
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == [f"step_{STEPS:06d}.pt"]
    run = settings[case].run.model_copy(update={"dir": str(tmp_path)})
    copied = settings[case].model_copy(update={"run": run})
    one = learn(ALONE, copied, STEPS, STEPS + 1, resume=True, save=True)
    assert_same(one["at_start"], two[case][0]["at_end"])
    going_on = partial(learn, settings=copied, begin=STEPS + 1, end=STEPS + 2, resume=True, save=True)
    for again in (found for (found,) in on_ranks(2, going_on, lora=True)):
        assert_same(again["at_start"], one["at_end"])
    assert checkpoint_file(tmp_path / "checkpoints", STEPS + 2).is_file()


def test_dropout_draws_otherwise_on_each_rank_and_in_each_step(settings: dict[str, Settings]) -> None:
    drawn = on_ranks(2, partial(seeds, settings=settings["dropout"]), lora=True)
    assert len({seed for (of_rank,) in drawn for seed in of_rank}) == 4


def test_with_dropout_a_run_that_was_stopped_ends_as_one_that_was_not(two: dict[str, Any]) -> None:
    assert_same(two["dropout, stopped"][0]["at_end"], two["dropout"][0]["at_end"])


def test_rank_0_alone_publishes_byte_for_byte_what_one_rank_would(tiny_model_directory: Path, tmp_path: Path) -> None:
    forms = ("merged", "adapter")
    inference = {"engine": "vllm", "vllm": {"lora_rank": 4}}
    settings = {
        form: settings_of(tiny_model_directory, tmp_path, lora={"rank": 4, "publish": form}, inference=inference)
        for form in forms
    }
    calls = [partial(deliver, settings=settings[form], directory=tmp_path / form / "two") for form in forms]
    for form, fields in zip(forms, on_ranks(2, *calls, lora=True)[0], strict=True):
        expected = deliver(ALONE, settings[form], tmp_path / form / "one")
        one, several = (files(tmp_path / form / number) for number in ("one", "two"))
        assert several == one and len(one) >= 2
        assert fields["sha256"] == expected["sha256"]


def deliver(ranks: Ranks, settings: Settings, directory: Path) -> dict[str, Any]:
    """What is announced of weights that are the same in each call; the other ranks only have them."""
    policy = Training(settings, ranks).policy
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    fields: dict[str, Any] = {}

    async def announce(announced: dict[str, Any]) -> None:
        fields.update(announced)

    if ranks.leads:
        assert policy.canary() is not None
        asyncio.run(Files(directory).deliver(policy, 1, announce))
    return fields


def seeds(ranks: Ranks, settings: Settings) -> list[int]:
    """Of torch's generator in each of two steps."""
    training, found = Training(settings, ranks), []
    for step in range(2):
        training.step(StepBatch(step=step, groups=random_groups(step, samples=3)))
        found.append(torch.initial_seed())
    return found


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
