"""The dashboard beside a real run: it is ready before the run begins, and what it tells moves while the run goes on."""

from __future__ import annotations

import json

import httpx
import pytest
from browser_support import Visitor
from playwright.sync_api import expect
from vpd_run import HEADERS, KEY, Start

from services.dashboard.runs import RolloutLine, RolloutQuery, RunFiles

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
WAIT_FOR_A_STEP_MS = 120_000
PIXELS = "canvas => canvas.toDataURL()"


def test_the_figures_move_while_a_run_goes_on_and_agree_with_its_files(up: Start) -> None:
    run = up("--set", "run.steps=4", "--set", "rollout.prompts_per_step=4", "--set", "evaluation.final_tasks=8")
    base = f"http://127.0.0.1:{run.base_port + 4}/v1/runs/{run.directory.name}"
    run.until(lambda: len(run.steps()) >= 1)
    seen = []
    with httpx.stream("GET", f"{base}/events", headers=HEADERS, timeout=300) as response:
        for line in response.iter_lines():
            record = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if record.get("kind") == "step":
                seen.append(record["step"])
            if seen and seen[-1] == 2:
                break
    assert seen == [0, 1, 2]
    (code, *_) = httpx.get(f"{base}/sources", headers=HEADERS).json()["items"]
    assert code["name"] == "code" and code["answers"] >= 3 * 4 * 8
    output = run.wait()
    assert f"Dashboard: http://127.0.0.1:{run.base_port + 4}/#run={run.directory.name}" in output
    assert run.process.returncode == 0
    files = RunFiles(run.directory)
    for record in files.metrics():
        if "source/code/failure_lift_nats" in record:
            # The same figure twice: the learner's own, and the sum of what it wrote of each token, rounded to 4 digits.
            rows = [files.rollout(line.trajectory_id) for line in at(files, record["step"])]
            lifts = [sum(row.token_lift) for row in rows if row and row.success is False and row.token_lift]
            assert sum(lifts) / len(lifts) == pytest.approx(record["source/code/failure_lift_nats"], abs=1e-3)


def test_the_curves_on_the_page_move_while_a_run_goes_on(up: Start, visitor: Visitor) -> None:
    run = up("--set", "run.steps=10", "--set", "rollout.prompts_per_step=4", "--set", "evaluation.final_tasks=8")
    run.until(lambda: len(run.steps()) >= 1)
    page = visitor.open(f"http://127.0.0.1:{run.base_port + 4}/#key={KEY}&run={run.directory.name}")
    reward = page.locator("[data-chart=reward]")
    points = reward.get_attribute("data-points", timeout=WAIT_FOR_A_STEP_MS) or ""
    for _ in range(3):
        drawn = reward.locator("canvas").evaluate(PIXELS)
        expect(reward).not_to_have_attribute("data-points", points, timeout=WAIT_FOR_A_STEP_MS)
        assert reward.locator("canvas").evaluate(PIXELS) != drawn
        points = reward.get_attribute("data-points") or ""
        expect(page.locator("#state")).to_have_text("running")
    page.close()
    run.wait()
    assert run.process.returncode == 0


def at(files: RunFiles, step: int) -> list[RolloutLine]:
    """The rollouts of a step."""
    return files.rollouts(RolloutQuery(from_step=step, to_step=step, limit=200)).items
