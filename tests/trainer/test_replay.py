"""A replayed step is the recorded one to the last bit, with every service off; a changed batch or weight shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_stack import run, stack
from rich.console import Console

from shared.errors import DataError, SettingsError
from trainer.batch_store import BatchStore
from trainer.ledger import Ledger
from trainer.replay import main, replay

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Path]:
    """A run of 4 steps that was stopped after the second; its services are down."""
    with stack(tmp_path_factory.mktemp("replay"), tiny_model_directory, redis_url) as services:
        run_settings = {"name": "done", "dir": str(services.root / "runs"), "seed": 5, "steps": 4}
        settings = services.settings("done", run=run_settings)
        run(settings, stop_after=1)
        run(settings)
    yield services.root / "runs" / "done"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "done"))


@pytest.mark.parametrize("step", range(4))
def test_any_step_comes_out_the_same_with_all_services_off(finished: Path, step: int) -> None:
    found = replay(finished, step, console=QUIET)
    assert found.identical and len(found.record) > 20
    assert (found.recorded_weights is not None) == (step in (1, 3))


def test_without_its_checkpoints_a_run_is_replayed_from_the_initial_model(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    found = replay(copy, 3, console=QUIET)
    assert found.from_step == 0 and found.identical and found.recorded_weights == found.weights


def test_dropout_on_several_ranks_is_not_replayed_but_said(copy: Path) -> None:
    written = json.loads((copy / "settings.json").read_text())
    written["model"]["lora"] = {"dropout": 0.1}
    (copy / "settings.json").write_text(json.dumps(written))
    Ledger(copy / "ledger.jsonl").start(4, ranks=2)
    with pytest.raises(SettingsError, match=r"several ranks with model\.lora\.dropout, .*one process cannot replay it"):
        replay(copy, 1, console=QUIET)


def test_a_batch_that_differs_in_one_sampled_log_prob_gives_another_loss(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    store = BatchStore(copy / "batches")
    stored = store.read(2)
    assert stored is not None
    text = stored.model_dump_json()
    value = stored.groups[0].trajectories[0].rollout.logprobs[0]
    store.write(type(stored).model_validate_json(text.replace(repr(value), repr(value - 0.01), 1)))
    found = replay(copy, 2, console=QUIET)
    assert not found.identical and found.different
    assert main(copy, step=2, as_json=True) == 1


def test_a_recorded_figure_that_was_changed_is_shown_beside_the_replayed_one(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        if record["kind"] == "step" and record["step"] == 1:
            record["m_step/kl"] += 1e-12
    (copy / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    assert list(replay(copy, 1, console=QUIET).different) == ["m_step/kl"]
    assert main(copy, step=1, as_json=False) == 1
    assert "DIFFERENT: m_step/kl" in capsys.readouterr().out
    assert main(copy, step=2, as_json=False) == 0
    assert "Identical" in capsys.readouterr().out


@pytest.mark.parametrize(("step", "said"), [(9, "has done steps 0 to 3"), (-1, "has done steps 0 to 3")])
def test_a_step_that_was_not_done_is_one_sentence(finished: Path, step: int, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        replay(finished, step, console=QUIET)


def test_a_batch_that_was_let_go_is_one_sentence(copy: Path) -> None:
    BatchStore(copy / "batches").forget_before(3)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(DataError, match=r"batch of step 0 is not stored .*learner\.keep_batches"):
        replay(copy, 3, console=QUIET)


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no run in"):
        replay(tmp_path, 0, console=QUIET)
