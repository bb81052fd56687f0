"""A learner of two processes: it starts them, survives the death of either, ends after its step when it is asked to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from job_processes import JOB, finish, start
from loop_stack import Stack, final_weights, metrics, stack, summary
from rich.console import Console
from trainer_algorithms import same

from shared.settings import Settings
from trainer.audit import audit
from trainer.checkpoint_files import checkpoint_steps
from trainer.ledger import read_ledger
from trainer.replay import replay

STEPS = 4


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("ranks"), tiny_model_directory, redis_url) as running:
        yield running


def settings_of(services: Stack, name: str, *, ranks: int = 2, lora: dict[str, Any] | None = None) -> Settings:
    place = {"name": name, "dir": str(services.root / "runs"), "seed": 5, "steps": STEPS}
    return services.settings(name, run=place, learner={"checkpoint_every": 2, "ranks": ranks}, model={"lora": lora})


def path(settings: Settings) -> Path:
    return Path(settings.run.dir) / settings.run.name


@contextlib.contextmanager
def jobs(settings: Settings, root: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """A collector that runs; and how to start a learner."""
    started = [start("collector", settings, root / f"{settings.run.name}.json")]

    def learner() -> subprocess.Popen[bytes]:
        started.append(start("learner", settings, root / f"{settings.run.name}.json"))
        return started[-1]

    try:
        yield learner
        assert finish(started[0]) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def whole(services: Stack) -> Settings:
    """A run of two ranks that nothing happened to."""
    settings = settings_of(services, "whole")
    with jobs(settings, services.root) as learner:
        assert finish(learner()) == 0
    return settings


def wait_for(file: Path, learner: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert learner.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def ranks_of(learner: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of a learner's ranks, rank 0 first."""
    children = Path(f"/proc/{learner.pid}/task/{learner.pid}/children").read_text().split()
    return sorted(map(int, children))


def assert_as_whole(settings: Settings, whole: Settings) -> None:
    assert same(final_weights(settings), final_weights(whole))
    assert metrics(settings) == metrics(whole)
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.weights == audit(path(whole)).weights


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_two_ranks_train_a_run_that_audits_clean_and_replays_to_rounding_in_one_process(whole: Settings) -> None:
    found = audit(path(whole))
    assert found.problems == [] and found.finished and found.steps == STEPS
    assert checkpoint_steps(path(whole) / "checkpoints") == [2, 4]
    assert all((path(whole) / "checkpoints" / f"step_{step:06d}").is_dir() for step in (2, 4))
    starts = [e["ranks"] for e in read_ledger(path(whole) / "ledger.jsonl").entries if e["kind"] == "start"]
    assert starts == [2]
    for step in (1, 3):
        assert replay(path(whole), step, console=Console(quiet=True)).identical
    assert summary(whole)["rows_trained"] > 0


@pytest.mark.e2e
@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("rank", "step"), [(0, 1), (1, 2), (1, 3)])
def test_whichever_rank_is_killed_in_a_step_the_learner_dies_of_it_and_started_again_ends_with_the_same_weights(
    services: Stack, whole: Settings, rank: int, step: int
) -> None:
    settings = settings_of(services, f"killed-{rank}-{step}")
    with jobs(settings, services.root) as learner:
        first = learner()
        # Stored right before the step is trained on.
        wait_for(path(settings) / "batches" / f"step_{step:06d}.zz", first)
        ranks = ranks_of(first)
        os.kill(ranks[rank], signal.SIGKILL)
        assert first.wait(60) == -signal.SIGKILL
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
        assert finish(learner()) == 0
    assert_as_whole(settings, whole)


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_ends_after_its_step_with_0_and_goes_on_to_the_same_weights(
    services: Stack, whole: Settings, number: signal.Signals
) -> None:
    settings = settings_of(services, f"stopped-{number.name}")
    with jobs(settings, services.root) as learner:
        first = learner()
        wait_for(path(settings) / "batches" / "step_000000.zz", first)
        first.send_signal(number)
        assert finish(first) == 0
        assert checkpoint_steps(path(settings) / "checkpoints") in ([1], [2])
        assert finish(learner()) == 0
    assert_as_whole(settings, whole)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_under_torchrun_its_number_of_ranks_counts_and_the_run_ends_the_same(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "torchrun", ranks=1)
    file = services.root / "torchrun.json"
    with jobs(settings, services.root):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "--no-python", sys.executable, "-c", JOB.format(job="learner"), str(file)]
        assert subprocess.run(command, env=environment, timeout=400, check=False).returncode == 0
    assert same(final_weights(settings), final_weights(whole))


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after", "lora"), [(2, 1, None), (1, 2, None), (1, 2, {"rank": 2, "dropout": 0.1})])
def test_a_run_goes_on_with_another_number_of_ranks(
    services: Stack, whole: Settings, before: int, after: int, lora: dict[str, Any] | None
) -> None:
    name = f"from-{before}-to-{after}" + ("-adapter" if lora else "")
    settings = settings_of(services, name, ranks=before, lora=lora)
    with jobs(settings, services.root) as learner:
        first = learner()
        wait_for(path(settings) / "batches" / "step_000001.zz", first)
        first.send_signal(signal.SIGTERM)
        assert finish(first) == 0
        other = settings.model_copy(update={"learner": settings.learner.model_copy(update={"ranks": after})})
        second = start("learner", other, services.root / "other.json")
        assert finish(second) == 0
    found: Any = audit(path(settings))
    assert found.problems == [] and found.finished
    starts = [e["ranks"] for e in read_ledger(path(settings) / "ledger.jsonl").entries if e["kind"] == "start"]
    assert starts == [before, after]
    assert final_weights(settings).keys() == final_weights(whole).keys()
