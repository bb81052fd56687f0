"""Trackers on the command line: what is missing is said before anything begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import only_sentence, vpd
from written_run import WrittenRun

from cli.checks import findings
from shared.settings import Settings

AT_A_SERVER = "tracking.trackio=http://127.0.0.1:7860"


@pytest.mark.parametrize("verb", ["up", "train"])
def test_a_run_whose_tracker_lacks_its_token_is_refused_before_it_begins(tmp_path: Path, verb: str) -> None:
    done = vpd(verb, "--set", AT_A_SERVER, cwd=tmp_path, TRACKIO_WRITE_TOKEN="")
    assert done.returncode == 2
    assert "set TRACKIO_WRITE_TOKEN" in only_sentence(done)
    assert not list(tmp_path.iterdir())


def test_config_check_finds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKIO_WRITE_TOKEN", raising=False)
    settings = Settings.model_validate({"tracking": {"trackio": "http://127.0.0.1:7860"}})
    found = next(one for one in findings(settings, 1) if one.name == "trackers")
    assert not found.ok
    assert "TRACKIO_WRITE_TOKEN" in found.detail


def test_to_track_a_run_without_a_tracker_is_refused_with_an_example(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "demo")
    done = vpd("track", str(run.path), cwd=tmp_path)
    assert done.returncode == 2
    assert "--set tracking.tensorboard=true" in only_sentence(done)


def test_what_cannot_be_delivered_is_said_with_exit_code_1(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "demo")
    run.go_on(3)
    arguments = ("--set", "tracking.trackio=http://127.0.0.1:9", "--set", "tracking.flush_s=60")
    done = vpd("track", str(run.path), *arguments, cwd=tmp_path, TRACKIO_WRITE_TOKEN="any")
    assert done.returncode == 1
    assert done.stdout.startswith("Not delivered to trackio from step 0 on: ConnectError: ")


def test_a_url_with_a_secret_in_it_is_refused(tmp_path: Path) -> None:
    done = vpd("config", "show", "--set", "tracking.mlflow=http://ann:secret@host:5000", cwd=tmp_path)
    assert done.returncode == 2
    assert "must not hold a secret" in only_sentence(done)
