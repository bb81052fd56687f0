"""What a person writes changes training: the right words teach, the same words about other prompts do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from critique_writer import held_out, train
from fork_server import fork_server
from vpd_run import HEADERS, SMALL, Start, Up, chosen

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STEPS, SEED, LIMIT_S = 40, 1, 600
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


def test_a_reviewers_critique_is_used_at_a_step_of_the_run_and_by_the_policy_version_after_it(up: Start) -> None:
    run = up("--keep", *SMALL, *chosen(run__steps=6))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{run.base_port + 3}", headers=HEADERS, trust_env=False) as http:
            critique = _review_one(run, http)
            output = run.wait()
            assert run.process.returncode == 0, output
            state = http.get(f"/v1/critiques/{critique['critique_id']}").json()
    finally:
        up(verb="down").wait(60)
    assert critique["status"] == "queued" and state["status"] == "used"
    assert 0 <= state["step"] < 6 and state["policy_version"] == state["step"] + 1
    (row,) = [t for t in run.trajectories(state["step"]) if t["trajectory_id"] == critique["trajectory_id"]]
    assert WORDS in row["m_step_teacher_prompt"]


def _review_one(run: Up, http: httpx.Client) -> dict[str, Any]:
    """Claim the first rollout that there is, see what the machine said once there is a draft, and submit."""
    tasks: list[dict[str, Any]] = []

    def claimed() -> bool:
        try:
            answer = http.post("/v1/review/claims", json={"reviewer": "ann"})
        except httpx.TransportError:
            return False
        tasks.extend([answer.json()] if answer.status_code == 201 else [])
        return bool(tasks)

    run.until(claimed)
    (task,) = tasks
    place = f"/v1/review/claims/{task['claim']['claim_id']}"
    assert task["blind"] and task["item"]["said"] == []
    http.put(f"/v1/review/drafts/ann/{task['claim']['trajectory_id']}", json={"text": "Use"})
    (said,) = http.get(place).json()["item"]["said"]
    assert (said["source"], said["status"], said["success"]) == ("code", "ok", False) and said["text"]
    critique: dict[str, Any] = http.post(f"{place}/submit", json={"text": WORDS}).json()
    return critique
