"""What a person writes changes training: the right words teach, the same words about other prompts do not."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from browser_support import Visitor
from critique_writer import held_out, train
from fork_server import fork_server
from playwright.sync_api import expect
from review_support import box
from vpd_run import HEADERS, KEY, SMALL, Start, chosen

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STEPS, SEED, LIMIT_S = 40, 1, 600
HIDDEN = "Hidden until your first draft is saved"
WAIT_FOR_A_STEP_MS = 120_000
WORDS = "Use the new name of the function in this line."


def test_critique_put_by_rest_alone_teaches_and_the_same_critique_about_other_prompts_does_not(
    tmp_path: Path, redis_url: str
) -> None:
    context = fork_server("critique_writer")
    arms = {"right": False, "exchanged": True}
    runs = [
        context.Process(
            target=train,
            args=(tmp_path, name, redis_url),
            kwargs={"seed": SEED, "steps": STEPS, "exchanged": exchanged},
        )
        for name, exchanged in arms.items()
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(LIMIT_S)
        run.kill()
    assert [run.exitcode for run in runs] == [0, 0]
    (before, taught), (_, confused) = (held_out(tmp_path / name) for name in arms)
    # With seeds 1, 2 and 3: 0.11, 0.13, 0.08 before; 0.66, 0.66, 0.39 after the right critique, 0.07, 0.16, 0.05 after
    # that of other prompts.
    assert taught > before + 0.2, (before, taught, confused)
    assert confused < before + 0.1, (before, taught, confused)


def test_the_page_shows_a_reviewer_at_which_step_of_the_run_the_critique_was_used(up: Start, visitor: Visitor) -> None:
    run = up("--keep", *SMALL, *chosen(run__steps=6))
    base = f"http://127.0.0.1:{run.base_port + 3}"
    try:
        run.until(lambda: _answers(base))
        page = visitor.open(f"{base}/review/#key={KEY}")
        page.get_by_label("Name").fill("Ann")
        page.keyboard.press("Enter")
        # The first rollout that there is; what the machine said of it is hidden until there is a draft.
        expect(box(page)).to_be_focused(timeout=WAIT_FOR_A_STEP_MS)
        expect(page.locator("#said")).to_contain_text(HIDDEN)
        page.keyboard.type(WORDS)
        expect(page.locator("#said")).to_contain_text("code")
        expect(page.locator("#said pre").first).not_to_be_empty()
        expect(page.locator("#said")).not_to_contain_text(HIDDEN)
        page.keyboard.press("Control+Enter")
        fate = page.locator("#fate-list li").first
        expect(fate).to_contain_text("waits for a training step")
        expect(fate).to_contain_text(re.compile(r"used at step \d+ by policy version \d+"), timeout=WAIT_FOR_A_STEP_MS)
        shown = fate.inner_text()
        state = httpx.get(f"{base}/v1/critiques", headers=HEADERS).json()["items"][0]
        page.close()
        output = run.wait()
        assert run.process.returncode == 0, output
    finally:
        up(verb="down").wait(60)
    step = state["step"]
    assert f"used at step {step} by policy version {step + 1}" in shown
    assert state["status"] == "used" and state["policy_version"] == step + 1 and 0 <= step < 6
    (row,) = [t for t in run.trajectories(step) if t["trajectory_id"] == state["trajectory_id"]]
    assert WORDS in row["m_step_teacher_prompt"]


def _answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/readyz", headers=HEADERS).is_success
    except httpx.TransportError:
        return False
