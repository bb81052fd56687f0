"""The `vpd` command as a real process: help that teaches, and one sentence for each mistake."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from cli_support import only_sentence, vpd

from cli.claim import Claim
from cli.main import main


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A `--set` that names a model directory, so that nothing depends on the one that ships."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return f"--set=model.path={tmp_path / 'model'}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["vpd up", "serve", "train", "eval", "config", "--recipe", "VPD_A__B"]),
        (["up"], ["--engine", "--keep", "--fresh", "--base-port", "--set", "Example: vpd up"]),
        (["serve"], ["code-feedback", "--port", "VPD_API_KEY", "Example: vpd serve"]),
        (["train"], ["--only", "Example: vpd train --recipe"]),
        (["experiment"], ["report", "--jobs", "--dry-run", "Example: vpd experiment"]),
        (["install"], ["vllm", "Example: vpd install vllm"]),
        (["test"], ["--e2e", "--compose", "--vllm", "pytest"]),
        (["config"], ["show", "check", "docs"]),
    ],
)
def test_help_teaches(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = vpd(*arguments, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert [word for word in words if word not in done.stdout] == []


def test_help_needs_neither_torch_nor_a_server(tmp_path: Path) -> None:
    done = vpd("--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "fastapi", "uvicorn", "redis", "httpx", "pydantic"})


@pytest.mark.parametrize("command", [["up"], ["train"], ["serve", "inference", "--port", "0"], ["config", "show"]])
def test_an_unknown_setting_is_one_sentence_with_a_suggestion(tmp_path: Path, command: list[str]) -> None:
    done = vpd(*command, "--set", "run.step=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "run.step is not a setting" in only_sentence(done)
    assert "did you mean run.steps?" in only_sentence(done)


def test_a_traceback_comes_only_when_asked_for(tmp_path: Path) -> None:
    done = vpd("--debug", "config", "show", "--set", "run.step=3", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: run.step is not a setting")


def test_a_service_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    done = vpd("serve", "inferenze", "--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "'inferenze'" in only_sentence(done)
    assert "human-feedback" in only_sentence(done)


def test_a_missing_model_is_one_sentence_before_anything_is_made(tmp_path: Path) -> None:
    done = vpd("up", "--set", "model.path=./none", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no model directory ./none" in only_sentence(done)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_one_sentence_with_the_port_and_the_way_out(tmp_path: Path, model: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        done = vpd("up", model, "--base-port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"Port {port}, for inference, is in use" in only_sentence(done)
    assert "--base-port" in only_sentence(done)


def test_a_second_up_in_the_same_directory_is_one_sentence_with_the_holder(tmp_path: Path, model: str) -> None:
    holder = Claim(tmp_path / "runs" / "demo")
    holder.take(fresh=False)
    done = vpd("up", model, cwd=tmp_path)
    holder.release()
    assert done.returncode == 1
    assert f"Another `vpd up` (process {os.getpid()}) runs in runs/demo" in only_sentence(done)


def test_a_complete_run_is_one_sentence_that_says_how_to_start_another(tmp_path: Path, model: str) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "summary.json").write_text("{}")
    done = vpd("up", model, cwd=tmp_path)
    assert done.returncode == 1
    assert "--fresh" in only_sentence(done)
    assert "--set run.name=NAME" in only_sentence(done)


def test_status_and_down_say_that_nothing_is_up(tmp_path: Path) -> None:
    assert vpd("status", cwd=tmp_path).stdout == "No stack is up below runs.\n"
    assert vpd("down", cwd=tmp_path).stdout == "No stack is up below runs.\n"


def test_a_run_is_audited_by_its_name_or_its_directory(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "settings.json").write_text(json.dumps({"run": {"steps": 3}, "rollout": {"prompts_per_step": 2}}))
    for named in ("demo", "runs/demo", str(run)):
        done = vpd("audit", named, "--json", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, "")
        assert "There is no ledger" in json.loads(done.stdout)["problems"][0]


@pytest.mark.parametrize("command", [("audit",), ("replay", "--step", "0")])
def test_a_run_that_is_not_there_is_one_sentence_with_those_that_are(tmp_path: Path, command: tuple[str, ...]) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    done = vpd(*command, "three", cwd=tmp_path)
    assert done.returncode == 2
    assert only_sentence(done).startswith(
        "There is no run three: name its directory, or one of the runs in runs (one, two;"
    )


def test_config_show_gives_the_settings_in_force_as_json(tmp_path: Path) -> None:
    done = vpd("config", "show", "--json", "--set", "run.steps=3", cwd=tmp_path, VPD_RUN__SEED="9")
    run = json.loads(done.stdout)["run"]
    assert (run["steps"], run["seed"]) == (3, 9)


def test_config_check_finds_what_is_missing_and_fails(tmp_path: Path, model: str) -> None:
    done = vpd("config", "check", model, "--set", "tasks.source=none.jsonl", cwd=tmp_path)
    findings = dict(line.split(None, 2)[1::-1] for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert (findings["model:"], findings["tasks:"], findings["redis:"]) == ("ok", "PROBLEM", "ok")


def test_a_full_disk_anywhere_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/demo/up.json")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("cli.main.typer.main.get_command", lambda _: write)
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err == "error: The disk is full (runs/demo/up.json): free some space and go on.\n"
