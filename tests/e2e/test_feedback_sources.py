"""Sources are URLs: swapped, abstaining, dying, and a person's critique, each against a real training run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from vpd_run import HEADERS, SMALL, Start, Up, chosen, free_base_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

Spawn = Callable[..., "subprocess.Popen[bytes]"]
DOCS = Path(__file__).parents[2] / "docs"
ABSTAINING = """
from fastapi import FastAPI, Request

app = FastAPI()
SOURCE = {"name": "silent", "kind": "other", "version": "1"}


@app.get("/v1/capabilities")
async def capabilities():
    return {"name": "silent", "version": "1", "gives_reward": True}


@app.post("/v1/feedback")
async def feedback(request: Request):
    items = (await request.json())["items"]
    return {"results": [
        {"trajectory_id": i["trajectory_id"], "feedback_id": i["trajectory_id"], "status": "abstain", "source": SOURCE}
        for i in items
    ]}
"""


def serve(spawn: Spawn, directory: Path, name: str, source: str) -> str:
    """Run a source's file with uvicorn, as its author would; returns its URL."""
    (directory / f"{name}.py").write_text(source)
    port = free_base_port()
    url = f"http://127.0.0.1:{port}"
    spawn([sys.executable, "-m", "uvicorn", f"{name}:app", "--port", str(port)], url, cwd=directory)
    return url


def fenced_python(document: Path) -> str:
    """The first fenced Python block of a document: a whole file."""
    return document.read_text().split("```python\n", 1)[1].split("```", 1)[0]


def test_with_a_source_that_abstains_a_run_trains_on_nothing_and_says_so(
    up: Start, spawn: Spawn, tmp_path: Path
) -> None:
    url = serve(spawn, tmp_path, "silent", ABSTAINING)
    run = up(*SMALL, *chosen(run__steps=2, feedback__sources__code__url=url))
    output = run.wait()
    assert run.process.returncode == 0, output
    summary = run.summary()
    assert summary["rows_trained"] == 0
    assert "Trained on nothing" in summary["notes"][0]
    assert "Trained on nothing" in output
    assert summary["accuracy_after"] is None


def test_the_documented_source_is_trained_against_as_it_stands(up: Start, spawn: Spawn, tmp_path: Path) -> None:
    url = serve(spawn, tmp_path, "my_source", fenced_python(DOCS / "feedback-source.md"))
    run = up(*SMALL, *chosen(run__steps=2, feedback__sources__code__url=url))
    output = run.wait()
    assert run.process.returncode == 0, output
    said = [f for t in run.trajectories(1) for f in t["feedback"] if f["status"] == "ok"]
    assert said and all(f["reward"] is not None for f in said if f["source"]["name"] == "code")


def test_a_critique_put_by_rest_is_in_its_trajectorys_teacher_prompt_and_its_writer_learns_at_which_step(
    up: Start,
) -> None:
    run = up("--keep", *SMALL, *chosen(run__steps=6))
    human = f"http://127.0.0.1:{run.base_port + 3}"
    try:
        run.until(lambda: (run.directory / "run.json").exists())
        early = f"{run.run_id()}-s000004-g000-r00"
        put_critique(human, early, "Written before its rollout: read the error's new name.")
        run.until(lambda: len(run.steps()) >= 1)
        late = f"{run.run_id()}-s000000-g001-r02"
        put_critique(human, late, "Written after its rollout: the name on that line has changed.")
        output = run.wait()
        assert run.process.returncode == 0, output
        used_late = critique_state(human, late)
        assert used_late["status"] == "used" and used_late["step"] >= 1
        assert "Written after its rollout" in teacher_prompts(run, used_late["step"], late)
        used_early = critique_state(human, early)
        assert (used_early["status"], used_early["step"]) == ("used", 4)
        assert "Written before its rollout" in teacher_prompts(run, 4, early)
    finally:
        down = up(verb="down")
        down.wait(60)


def put_critique(human: str, trajectory_id: str, text: str) -> None:
    answer = httpx.put(
        f"{human}/v1/rollouts/{trajectory_id}/critiques/ann", json={"text": text}, headers=HEADERS, trust_env=False
    )
    assert answer.status_code == 201, answer.text


def critique_state(human: str, trajectory_id: str) -> dict[str, Any]:
    url = f"{human}/v1/rollouts/{trajectory_id}/critiques/ann"
    state: dict[str, Any] = httpx.get(url, headers=HEADERS, trust_env=False).json()
    return state


def teacher_prompts(run: Up, step: int, trajectory_id: str) -> str:
    (row,) = [t for t in run.trajectories(step) if t["trajectory_id"] == trajectory_id]
    return f"{row['m_step_teacher_prompt']}\n{row['e_step_teacher_prompt']}"


def test_a_source_that_dies_mid_run_and_comes_back_costs_time_and_no_label(up: Start, spawn: Spawn) -> None:
    port = free_base_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "cli.main", "serve", "code-feedback", "--port", str(port)]
    source = spawn(command, url)
    run = up(*SMALL, *chosen(run__steps=5, feedback__sources__code__url=url))
    run.until(lambda: len(run.steps()) >= 1)
    source.send_signal(signal.SIGKILL)
    source.wait()
    time.sleep(1)
    spawn(command, url)
    output = run.wait()
    assert run.process.returncode == 0, output
    judged = [t for step in range(5) for t in run.trajectories(step)]
    assert len(judged) == 5 * 128
    assert all(t["reward"] is not None for t in judged)


def test_a_source_that_stays_away_stops_the_run_with_one_sentence_and_gives_no_reward(up: Start, spawn: Spawn) -> None:
    port = free_base_port()
    url = f"http://127.0.0.1:{port}"
    source = spawn([sys.executable, "-m", "cli.main", "serve", "code-feedback", "--port", str(port)], url)
    run = up(*SMALL, *chosen(run__steps=50, feedback__sources__code__url=url, feedback__max_outage_s=3))
    run.until(lambda: len(run.steps()) >= 1)
    source.kill()
    output = run.wait()
    assert run.process.returncode != 0
    assert url in output and "max_outage_s" in output and "Traceback" not in output
    done = len(run.steps())
    assert all(t["reward"] is not None for step in range(done) for t in run.trajectories(step))


def test_a_source_that_is_down_at_the_start_is_named_with_its_url(up: Start) -> None:
    url = f"http://127.0.0.1:{free_base_port()}"
    run = up(*SMALL, *chosen(run__steps=2, feedback__sources__code__url=url, feedback__sources__code__timeout_s=3))
    output = run.wait()
    assert run.process.returncode != 0
    assert url in output and "code" in output and "Traceback" not in output


def test_metrics_are_lines_of_json_with_what_the_progress_shows(up: Start) -> None:
    run = up(*SMALL, *chosen(run__steps=2, evaluation__every=1))
    assert run.wait() and run.process.returncode == 0
    records, timings = (
        [json.loads(line) for line in (run.directory / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "timings.jsonl")
    )
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [0, 1, 2]
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in timings] == [r["step"] for r in steps] == [0, 1]
    assert all({"reward_mean", "success_rate", "m_step/kl"} <= r.keys() for r in steps)
    assert all({"tokens_per_s", "eta_s", "queue/waiting", "seconds/step"} <= r.keys() for r in timings)
