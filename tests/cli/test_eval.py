"""`vpd eval` against a policy and a judge over HTTP: killed and started again, refused what cannot be, and printed."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli_support import DEADLINE_S, command, environment
from evaluation_fakes import answers
from fastapi import FastAPI
from loop_stack import Judge, write_tasks

from cli.evaluate import Arguments, main
from cli.evaluation_services import _plan, at_home
from shared.errors import InfrastructureError, ServiceUnavailable, SettingsError, VPDError
from shared.load_settings import Resolved, resolve_settings
from shared.protocol import PolicyState, RolloutRequest, RolloutResponse
from shared.settings import Settings
from tests.serving import running
from trainer.evaluate import _BATCHES_AT_ONCE

TASKS, SAMPLES = 24, 2


@dataclass
class Inference:
    """An inference service whose answers depend on what is asked; it holds its answer to request number `hold_at`."""

    blocked: str | None = None
    hold_at: int = 0
    seeds: list[int | None] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def requests(self) -> int:
        return len(self.seeds)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/policy")
        def policy() -> PolicyState:
            return PolicyState(model="m", max_context=4096, blocked=self.blocked)

        @app.post("/v1/rollouts")
        def rollouts(request: RolloutRequest) -> RolloutResponse:
            self.seeds.append(request.sampling.seed)
            questions = [(prompt.messages or [])[-1].content for prompt in request.prompts]
            if self.requests == self.hold_at:
                go_on = self.go_on
                self.held.set()
                assert go_on.wait(DEADLINE_S)
            return answers(questions, request.n, request.sampling)

        return app


@dataclass
class Services:
    """Both, and the settings of an evaluation with them."""

    inference: Inference
    judge: Judge
    inference_url: str
    judge_url: str
    root: Path

    def overrides(self, **changes: Any) -> list[str]:
        chosen = {
            "run.dir": self.root / "runs",
            "inference.url": self.inference_url,
            "inference.max_batch_rows": 4,
            "inference.timeout_s": 30,
            "tasks.source": self.root / "tasks.jsonl",
            "tasks.held_out": self.root / "held_out.jsonl",
            "feedback.sources.code.url": self.judge_url,
            "feedback.sources.human": "none",
            "feedback.max_outage_s": 0.1,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        return [f"{key}={value}" for key, value in chosen.items()]

    def evaluate(self, *names: str, overrides: Sequence[str] = (), **options: Any) -> int:
        """`main` with these services."""
        return main(arguments(*names, **{"overrides": [*self.overrides(), *overrides], "samples": SAMPLES, **options}))


def arguments(*names: str, **options: Any) -> Arguments:
    chosen: dict[str, Any] = {
        "names": names,
        "model": None,
        "samples": None,
        "k": None,
        "greedy": False,
        "tasks": None,
        "teacher": "feedback",
        "out": None,
        "as_json": False,
        "base_port": 8201,
        "recipes": (),
        "overrides": (),
        "find_run": Path,
        "command": "./vpd eval",
    }
    return Arguments(**{**chosen, **options})


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    write_tasks(tmp_path / "tasks.jsonl")
    text = write_tasks(tmp_path / "held_out.jsonl", TASKS).read_text()
    (tmp_path / "held_out.jsonl").write_text(text.replace('"t', '"h').replace("Question", "Held-out"))
    inference, judge = Inference(), Judge()
    with running(inference.app()) as inference_url, running(judge.app()) as judge_url:
        yield Services(inference, judge, inference_url, judge_url, tmp_path)


def only(pattern: str, directory: Path) -> Path:
    (found,) = directory.glob(pattern)
    return found


# ------------------------------------------------------------------------------------------------- stopped and killed


def test_killed_and_interrupted_it_goes_on_and_asks_again_only_for_what_was_in_flight(services: Services) -> None:
    sets = [part for override in services.overrides() for part in ("--set", override)]
    line = command("eval", "--samples", str(SAMPLES), *sets)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            line, cwd=services.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    inference = services.inference
    for number, at in ((signal.SIGKILL, 9), (signal.SIGINT, 20)):
        inference.hold_at, inference.held, inference.go_on = at, threading.Event(), threading.Event()
        process = start()
        assert inference.held.wait(DEADLINE_S)
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), output
        inference.go_on.set()
    assert "Going on with the evaluation in" in output and "Stopped. To go on: ./vpd eval" in output
    last = start()
    output, _ = last.communicate(timeout=DEADLINE_S)
    assert last.returncode == 0, output
    # Every request has a seed of its own.
    again = sum(times - 1 for times in Counter(inference.seeds).values())
    assert 2 <= again <= 2 * _BATCHES_AT_ONCE["transformers"]
    finished = only("runs/evaluations/*/result.json", services.root).read_bytes()
    assert services.evaluate(overrides=[f"run.dir={services.root / 'undisturbed'}"]) == 0
    assert only("undisturbed/evaluations/*/result.json", services.root).read_bytes() == finished


def test_a_finished_evaluation_is_told_again_and_nobody_is_asked(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    assert services.evaluate() == 0
    first, requests = capsys.readouterr().out, services.inference.requests
    assert services.evaluate(k="1,2", out=services.root / "copy.json") == 0
    assert services.inference.requests == requests and "pass@1" in capsys.readouterr().out and "pass@1" not in first
    assert json.loads((services.root / "copy.json").read_text())["student"]["all"]["pass_at"].keys() == {"1", "2"}


def test_a_changed_setting_begins_a_new_evaluation_and_says_what_changed(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.evaluate(tasks=4)
    capsys.readouterr()
    services.evaluate(tasks=4, overrides=["evaluation.temperature=0.6"])
    said = " ".join(capsys.readouterr().err.split())
    assert "A new evaluation, not that of" in said and "sampling.temperature (1.0, now 0.6)." in said
    assert len(list(services.root.glob("runs/evaluations/*/result.json"))) == 2
    requests = services.inference.requests
    services.evaluate(tasks=4)
    assert services.inference.requests == requests


def test_a_source_that_failed_is_asked_again_by_the_same_command(services: Services) -> None:
    services.judge.mode = "down"
    with pytest.raises(ServiceUnavailable):
        services.evaluate(tasks=2, overrides=["feedback.sources.code.timeout_s=0.5"])
    services.judge.mode = "judge"
    assert services.evaluate(tasks=2, overrides=["feedback.sources.code.timeout_s=0.5"]) == 0
    assert services.inference.requests == 2, "one for the student, before, and one for the teacher"


# -------------------------------------------------------------------------------------------------- what it prints


def test_json_is_all_there_is_on_standard_output(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    assert services.evaluate(as_json=True, tasks=3) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["student"]["all"]["tasks"] == 3 and result["teacher"]["all"]["judged"] == 3 * SAMPLES


def test_where_nothing_could_be_judged_the_table_says_so_and_the_exit_code_is_1(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.judge.mode = "abstain"
    assert services.evaluate(tasks=3) == 1
    printed = capsys.readouterr().out
    assert "none judged" in printed and "student without an outcome" in printed and "6 because the outcome" in printed


def test_two_evaluations_are_compared_by_their_files_or_their_runs(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.evaluate(tasks=8)
    file = only("runs/evaluations/*/result.json", services.root)
    services.evaluate(tasks=8, overrides=["evaluation.temperature=0.5", f"run.dir={services.root / 'other'}"])
    capsys.readouterr()
    assert main(arguments(str(file), str(services.root / "other"))) == 0
    assert f"{services.root / 'other'} minus {file}" in capsys.readouterr().out
    assert main(arguments(str(file), str(file), as_json=True)) == 0
    same = json.loads(capsys.readouterr().out)["student"]
    assert (same["value"], same["low"], same["high"], same["tasks"]) == (0.0, 0.0, 0.0, 8)


# ------------------------------------------------------------------------------------------- one sentence for each


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": "1,8"}, r"pass@8 cannot be estimated from 2 rollouts of a task; set --samples"),
        ({"k": "0"}, r"ask for a k from 1 to 2"),
        ({"k": "two"}, r"--k takes numbers like 1,4,16, not 'two'"),
        ({"greedy": True}, r"--greedy asks for one rollout of each task"),
        ({"greedy": True, "samples": None, "overrides": ["evaluation.samples=4"], "k": "4"}, r"pass@4 cannot be"),
        ({"names": ("a", "b", "c")}, r"takes one run, or --model, or two evaluations"),
        ({"names": ("a",), "model": "b"}, r"takes one run, or --model, or two evaluations"),
        ({"names": ("a", "b")}, r"The run a has not been evaluated: start `vpd eval a` first"),
        ({"model": "./none"}, r"there is no model directory ./none"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        main(arguments(**{"samples": 2, **options}))


def test_without_services_it_says_how_to_get_some(tmp_path: Path) -> None:
    away = ["inference.url=http://127.0.0.1:9", "inference.timeout_s=0.2", f"run.dir={tmp_path}"]
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:9 cannot be reached .* `vpd up --keep`.*--model PATH"):
        main(arguments(overrides=away))
    assert not list(tmp_path.iterdir())


def test_without_its_outcome_source_it_names_the_source(services: Services) -> None:
    away = ["feedback.sources.code.url=http://127.0.0.1:9", "feedback.sources.code.timeout_s=0.3"]
    with pytest.raises(VPDError, match=r"'code' at http://127\.0\.0\.1:9"):
        services.evaluate(overrides=away)
    assert services.inference.requests == 0


def test_a_policy_that_is_blocked_is_not_measured(services: Services) -> None:
    services.inference.blocked = "Version 3 is blocked."
    with pytest.raises(InfrastructureError, match=r"serves nothing to evaluate: Version 3 is blocked\."):
        services.evaluate()


def test_tasks_of_which_none_is_held_out_are_refused(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def held_out(self, count: int) -> list[Any]:
            return []

    monkeypatch.setattr("cli.evaluation_run.load_tasks", lambda *_, **__: Nothing())
    with pytest.raises(SettingsError, match=r"has no held-out task; set tasks\.held_out"):
        services.evaluate()


# ------------------------------------------------------------------------------------------------- a run, its services


def a_run(directory: Path, **settings: Any) -> Path:
    (directory / "model").mkdir(parents=True)
    (directory / "run.json").write_text("{}")
    (directory / "settings.json").write_text(json.dumps(settings))
    return directory


def test_a_run_that_has_not_ended_has_no_model_to_measure(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no model yet: let it come to its end"):
        main(arguments(str(a_run(tmp_path / "run"))))


@pytest.mark.parametrize("changed", ["run.seed=5", "tasks.world_seed=1", "tasks.split_seed=1", "tasks.limit=3"])
def test_a_run_is_never_measured_on_tasks_that_another_draw_would_hold_out(tmp_path: Path, changed: str) -> None:
    run = a_run(tmp_path / "run", run={"seed": 4})
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"must be those of the run .*run where it is measured on its own tasks"):
        main(arguments(str(run), overrides=[changed]))


@pytest.mark.parametrize("other", ["tasks.source={}", "tasks.held_out={}"])
def test_a_run_may_be_measured_on_other_tasks(tmp_path: Path, other: str) -> None:
    run = a_run(tmp_path / "run", tasks={"source": str(write_tasks(tmp_path / "tasks.jsonl"))})
    (run / "model" / "config.json").write_text("{}")
    named = other.format(tmp_path / "none.jsonl")
    with pytest.raises(SettingsError, match=r"none\.jsonl"):
        main(arguments(str(run), overrides=[named]))


@pytest.mark.parametrize(
    ("inference", "code"),
    [
        ("http://127.0.0.1:9301", "http://127.0.0.1:9302"),
        ("http://localhost:8201", "http://localhost:8202"),
        ("http://inference:8201", "http://code-feedback:8202"),
    ],
)
def test_a_runs_own_services_are_started_where_those_of_any_stack_are(inference: str, code: str) -> None:
    overrides = [f"inference.url={inference}", f"feedback.sources.code.url={code}", "feedback.sources.human=none"]
    home = at_home(resolve_settings((), overrides, {}).settings)
    assert (home.inference.url, home.feedback.sources["code"].url) == ("http://127.0.0.1:8201", "http://127.0.0.1:8202")


def test_a_source_elsewhere_stays_there() -> None:
    overrides = ["inference.url=http://127.0.0.1:9301", "feedback.sources.code.url=https://judge.example:9302/answer"]
    home = at_home(resolve_settings((), overrides, {}).settings)
    assert home.feedback.sources["code"].url == "https://judge.example:9302/answer"


@pytest.mark.parametrize(
    ("code", "started"),
    [
        ("http://127.0.0.1:8202", ["inference", "code-feedback"]),
        ("http://127.0.0.1:8203/answer", ["inference", "critic-feedback"]),
        ("http://judge.example:8202", ["inference"]),
    ],
)
def test_only_the_services_that_are_asked_are_started(tmp_path: Path, code: str, started: list[str]) -> None:
    settings = resolve_settings((), [f"feedback.sources.code.url={code}"], {}).settings
    # As a run's settings.json gives them: every value is set.
    every = {f"{section}.{name}": "run" for section in ("queue", "inference") for name in ("url", "policy_root")}
    plan = _plan(Resolved(settings, every), tmp_path, 9400)
    assert list(plan.ports) == started and plan.ports["inference"] == 9400
    assert plan.redis_socket is None and plan.settings.inference.policy_root == str(tmp_path)
    assert plan.settings.api_key is not None and isinstance(plan.settings, Settings)
