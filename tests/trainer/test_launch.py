"""Ranks that cannot train together are one sentence; one that fails ends the others, and how it ended is passed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SettingsError
from shared.settings import Settings
from trainer.launch import joined, launch, must_launch

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def settings_of(**changes: Any) -> Settings:
    return Settings.model_validate({"model": {"device": "cpu"}, "learner": {"ranks": 2}, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"prompts_per_step": 1, "samples_per_prompt": 1}, "algorithm": {"name": "vpd"}}, "which has 1"),
        ({"model": {"device": "cuda"}}, "2 ranks need a GPU each, and this machine has 0"),
        ({"inference": {"publish": "nccl"}}, r"set inference\.publish=files"),
    ],
)
def test_settings_that_two_ranks_cannot_train_are_one_sentence(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    settings = settings_of(**changes)
    for start in (lambda: launch(settings), lambda: joined(settings).__enter__()):
        with pytest.raises(SettingsError, match=said) as caught:
            start()
        assert "\n" not in str(caught.value)
        for name, value in {**TORCHRUN, "RANK": "1"}.items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_number_of_ranks_in_the_environment_without_where_they_meet_is_one_sentence(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TORCHRUN.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(
        SettingsError, match=f"WORLD_SIZE is 2, but {missing} is not set: start the ranks with torchrun"
    ):
        joined(settings_of()).__enter__()


def test_who_started_the_ranks_already_or_wants_one_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert must_launch(settings_of())
    assert not must_launch(settings_of(learner={"ranks": 1}))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not must_launch(settings_of())


SCRIPT = """
import os, sys, time
if "RANK" in os.environ:
    part = sys.argv[1 + int(os.environ["RANK"])]
    if part == "waits":
        open(sys.argv[3], "w").write(str(os.getpid()))
        time.sleep(100)
    while "waits" in sys.argv and not (os.path.exists(sys.argv[3]) and open(sys.argv[3]).read()):
        pass
    os.kill(os.getpid(), 9) if part == "killed" else sys.exit(int(part))
from shared.settings import Settings
from trainer.launch import launch
sys.exit(launch(Settings.model_validate({"model": {"device": "cpu"}, "learner": {"ranks": 2}})))
"""


@pytest.mark.parametrize(("parts", "code"), [(("0", "0"), 0), (("waits", "3"), 3), (("killed", "waits"), -9)])
def test_a_rank_that_fails_ends_the_others_and_the_launch_ends_as_it_did(
    tmp_path: Path, parts: tuple[str, str], code: int
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), *parts, str(tmp_path / "pid")]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == code
    if "waits" in parts:
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
