"""Several ranks compute what one does, to rounding, whatever the algorithm and the rows; they publish what one would,
and go on from each other's checkpoints."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import assert_as_one, assert_same, learn, on_ranks, publish, settings_of
from tiny_model import make_tiny_model

from shared.settings import Settings
from trainer.checkpoint import Checkpoints
from trainer.checkpoint_files import DIGESTS, checkpoint_steps, file_digest
from trainer.ranks import ALONE

VPD = {"name": "vpd", "e_step": {"every": 2, "buffer_steps": 2, "gradient_steps": 2}}
CASES: dict[str, dict[str, Any]] = {
    "vpd": {"algorithm": VPD, "learner": {"diagnose_every": 1}},
    "vpd with a live teacher": {"algorithm": {**VPD, "teacher": {"weights": "live"}}},
    "vpd in many passes": {
        "algorithm": {**VPD, "teacher": {"weights": "separate"}, "e_step": {"prior": "fixed"}},
        "learner": {"microbatch_tokens": 150, "chunk_tokens": 16},
    },
    "sdpo in a trust region": {"algorithm": {"name": "sdpo", "teacher": {"weights": "trust_region"}}},
    "sdpo_grpo in minibatches": {"algorithm": {"name": "sdpo_grpo", "m_step": {"minibatches": 2}}},
    "grpo": {"algorithm": {"name": "grpo"}},
}
UNTIED = ("vpd in many passes", "sdpo_grpo in minibatches")
STEPS = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path) -> dict[str, Settings]:
    """Of each case, its run in a directory of its own."""
    untied = make_tiny_model(tmp_path_factory.mktemp("untied") / "model", context=1024, tied=False)
    return {
        case: settings_of(untied if case in UNTIED else tiny_model_directory, tmp_path_factory.mktemp("run"), **changes)
        for case, changes in CASES.items()
    }


@pytest.fixture(scope="module")
def two(settings: dict[str, Settings]) -> dict[str, Any]:
    """What each case comes to on two ranks, and a checkpoint after it; on rank 0."""
    calls = [partial(learn, settings=of_case, begin=0, end=STEPS, save=True) for of_case in settings.values()]
    results = on_ranks(2, *calls)
    for one, other in zip(*results, strict=True):
        assert [m.keys() for m in one["metrics"]] == [m.keys() for m in other["metrics"]]
    return dict(zip(settings, results[0], strict=True))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_losses_and_weights_of_one(
    two: dict[str, Any], settings: dict[str, Settings], case: str
) -> None:
    one = learn(ALONE, settings[case], 0, STEPS)
    assert_as_one(two[case], one)
    assert all(bool(lifts) == (case != "grpo") for lifts in one["token_lifts"])


@pytest.mark.parametrize("case", ["vpd in many passes"])
def test_a_checkpoint_of_two_ranks_is_gone_on_from_by_one_and_then_by_three(
    two: dict[str, Any], settings: dict[str, Settings], tmp_path: Path, case: str
) -> None:
    copied = _copied(settings[case], tmp_path)
    one = learn(ALONE, copied, STEPS, STEPS + 1, resume=True, save=True)
    assert_same(one["at_start"], two[case]["at_end"])
    assert (tmp_path / "checkpoints" / f"step_{STEPS + 1:06d}.pt").is_file()
    going_on = partial(learn, settings=copied, begin=STEPS + 1, end=STEPS + 2, resume=True, save=True)
    (three,), *_ = on_ranks(3, going_on)
    assert_same(three["at_start"], one["at_end"])
    again = learn(ALONE, copied, STEPS + 2, STEPS + 2, resume=True)
    assert_same(again["at_start"], three["at_end"])
    assert again["digest"] == three["digest"]


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata", "state.pt", "digests.json"])
def test_a_checkpoint_of_which_a_file_is_torn_changed_or_missing_is_skipped_for_the_one_before(
    two: dict[str, Any], settings: dict[str, Settings], tmp_path: Path, name: str
) -> None:
    directory = Path(_copied(settings["grpo"], tmp_path).run.dir) / "checkpoints"
    newest = directory / f"step_{STEPS:06d}"
    _as_of_step(1, shutil.copytree(newest, directory / "step_000001"))
    checkpoints = Checkpoints(directory, keep=9)
    digest, content = checkpoints.digest(STEPS), (newest / name).read_bytes()
    for damaged in (content[: len(content) // 2], content[:40] + bytes([content[40] ^ 1]) + content[41:], None):
        (newest / name).unlink() if damaged is None else (newest / name).write_bytes(damaged)
        assert name == "digests.json" or checkpoints.digest(STEPS) != digest
        found = checkpoints.load_newest()
        assert found is not None and found["step"] == 1
        (newest / name).write_bytes(content)
    found = checkpoints.load_newest()
    assert found is not None and found["step"] == STEPS and checkpoints.digest(STEPS) == digest


def test_the_publication_of_two_ranks_is_byte_for_byte_that_of_one(
    settings: dict[str, Settings], tmp_path: Path
) -> None:
    cases = {"vpd": torch.float32, "vpd in many passes": torch.bfloat16}
    calls = [
        partial(publish, settings=settings[case], directory=tmp_path / case / "two", dtype=dtype)
        for case, dtype in cases.items()
    ]
    for (case, dtype), (found, digest) in zip(cases.items(), on_ranks(2, *calls)[0], strict=True):
        canary, _ = publish(ALONE, settings[case], tmp_path / case / "one", dtype)
        one, several = ({f.name: f.read_bytes() for f in (tmp_path / case / n).iterdir()} for n in ("one", "two"))
        assert several == one and len(one) >= 5
        assert digest == hashlib.sha256(one["model.safetensors"]).hexdigest()
        assert found.token_ids == canary.token_ids
        assert found.logprobs == pytest.approx(canary.logprobs, abs=1e-5)


def _copied(settings: Settings, directory: Path) -> Settings:
    """The same run, its checkpoints copied to another directory."""
    shutil.copytree(Path(settings.run.dir) / "checkpoints", directory / "checkpoints")
    assert checkpoint_steps(directory / "checkpoints") == [STEPS]
    return settings.model_copy(update={"run": settings.run.model_copy(update={"dir": str(directory)})})


def _as_of_step(step: int, directory: Path) -> None:
    """Make a checkpoint one of another step."""
    rest = torch.load(directory / "state.pt", weights_only=True)
    rest["state"]["step"] = step
    torch.save(rest, directory / "state.pt")
    digests = json.loads((directory / DIGESTS).read_text()) | {"state.pt": file_digest(directory / "state.pt")}
    (directory / DIGESTS).write_text(json.dumps(digests))
