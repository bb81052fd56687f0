"""The dashboard's routes over real HTTP: what they answer about runs that a learner has written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import running

from services.dashboard.app import create_app
from shared.settings import Settings
from tests.services.dashboard.a_run import a_row, a_run, answer, do_step, evaluate, trajectory_id, write_rows

KEY = {"Authorization": "Bearer k3y"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    settings = Settings.model_validate({"api_key": "k3y", "run": {"dir": str(tmp_path)}})
    with running(create_app(settings)) as url, httpx.Client(base_url=url + "/v1", headers=KEY) as client:
        yield client


def got(client: httpx.Client, path: str, **params: Any) -> Any:
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_before_any_run_there_is_an_empty_list(client: httpx.Client) -> None:
    assert got(client, "/runs") == {"items": [], "next_cursor": None}


def test_runs_are_listed_with_how_far_they_are_a_page_at_a_time(client: httpx.Client, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        do_step(a_run(tmp_path, name), 0)
    evaluate(a_run(tmp_path, "b"), 1, 0.25)
    first = got(client, "/runs", limit=2)
    rest = got(client, "/runs", limit=2, cursor=first["next_cursor"])
    names = [run["name"] for run in first["items"] + rest["items"]]
    assert sorted(names) == ["a", "b", "c"] and names[0] == "b" and rest["next_cursor"] is None
    newest = first["items"][0]
    assert (newest["state"], newest["steps_done"], newest["steps"]) == ("running", 1, 8)
    assert (newest["student_accuracy"], newest["teacher_accuracy"]) == (0.25, 0.5)


def test_a_run_comes_with_its_settings_and_no_secret(client: httpx.Client, tmp_path: Path) -> None:
    run = a_run(tmp_path, api_key="hidden", rollout={"temperature": 0.5})
    run.write_summary({"accuracy_after": 0.9})
    found = client.get("/runs/demo")
    assert found.json()["settings"]["rollout"]["temperature"] == 0.5 and "hidden" not in found.text
    assert (found.json()["state"], found.json()["summary"]) == ("finished", {"accuracy_after": 0.9})


def test_the_curves_are_the_curated_ones_that_have_points_each_with_what_is_bad(
    client: httpx.Client, tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    evaluate(run, 0, 0.0)
    for step in range(4):
        do_step(run, step, **{"source/code/success_lift_nats": 1.5, "m_step/entropy": float("nan")})
    evaluate(run, 4, 0.5)
    found = {curve["key"]: curve for curve in got(client, "/runs/demo/curves")["curves"]}
    assert "entropy" not in found and "gate" not in found
    assert all("Bad:" in curve["note"] for curve in found.values())
    student, teacher = found["accuracy"]["lines"]
    assert (student["x"], student["y"], teacher["y"]) == ([0, 4], [0.0, 0.5], [0.5, 0.5])
    (reward,) = found["reward"]["lines"]
    assert (reward["x"], reward["y"]) == ([1, 2, 3, 4], [0.0, 0.1, 0.2, 0.3])
    assert found["tokens_per_s"]["lines"][0]["y"] == [100.0, 101.0, 102.0, 103.0]
    assert found["lift_of_code"]["lines"][0]["label"] == "successes"


def test_a_long_curve_is_means_of_neighbours(client: httpx.Client, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(25):
        run.record({"kind": "step", "step": step, "reward_mean": float(step % 3)})
    (reward,) = got(client, "/runs/demo/curves", max_points=10)["curves"][0]["lines"]
    assert reward["x"] == [3, 6, 9, 12, 15, 18, 21, 24, 25] and set(reward["y"][:-1]) == {1.0}


def test_rollouts_and_groups_are_lists_with_pages(client: httpx.Client, tmp_path: Path) -> None:
    do_step(a_run(tmp_path), 0)
    page = got(client, "/runs/demo/rollouts", sort="worst", limit=4)
    rest = got(client, "/runs/demo/rollouts", sort="worst", limit=4, cursor=page["next_cursor"])
    assert [line["reward"] for line in page["items"] + rest["items"]] == [0.0] * 4 + [1.0] * 2
    (first, _) = got(client, "/runs/demo/groups", min_reward=1)["items"]
    assert (first["matching"], len(first["rollouts"])) == (1, 3)
    wrong = client.get("/runs/demo/rollouts", params={"sort": "best", "cursor": page["next_cursor"]})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "cursor")
    unknown = client.get("/runs/demo/rollouts", params={"rewrad": 1})
    assert (unknown.status_code, unknown.json()["field"]) == (422, "rewrad")


def test_a_rollout_comes_in_tokens_with_the_teacher_s_prompt_and_what_was_said(
    client: httpx.Client, tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    row = a_row(run, 0, 0, 0, response="é = lib.π", token_ends=[1, 4, 4, 9], token_lift=[0.5, -2.0, None, 1.0])
    write_rows(run, 0, [row, a_row(run, 0, 0, 1)])
    found = got(client, f"/runs/demo/rollouts/{row['trajectory_id']}")
    assert (found["token_texts"], found["token_lift"]) == (["é", " = ", "", "lib.π"], [0.5, -2.0, None, 1.0])
    assert found["m_step_teacher_prompt"] == "question 0 of 0, and: wrong" and found["lift_nats"] is None
    assert found["feedback"][0]["text"] == "wrong"
    assert got(client, f"/runs/demo/rollouts/{trajectory_id(run, 0, 0, 1)}")["token_texts"] is None
    siblings = got(client, f"/runs/demo/steps/0/groups/{row['group_id']}")["items"]
    assert [one["response"] for one in siblings] == ["é = lib.π", "attempt 1"]


def test_what_is_not_there_is_a_problem_of_status_404(client: httpx.Client, tmp_path: Path) -> None:
    do_step(a_run(tmp_path), 0)
    paths = ["/runs/nobody", "/runs/nobody/events", "/runs/demo/rollouts/x", "/runs/demo/steps/0/groups/x"]
    for path in paths:
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert client.get("/runs/..%2Fdemo").status_code in (404, 422)


def test_two_runs_are_compared_by_the_settings_and_results_that_differ(client: httpx.Client, tmp_path: Path) -> None:
    a_run(tmp_path, "one").write_summary({"accuracy_after": 0.5, "steps": 8})
    a_run(tmp_path, "two", algorithm={"name": "grpo"}).write_summary({"accuracy_after": 0.75, "steps": 8})
    found = got(client, "/compare", left="one", right="two")
    differing = {d["name"]: (d["left"], d["right"]) for d in found["settings"]}
    assert differing["algorithm.name"] == ("vpd", "grpo") and differing["run.name"] == ("one", "two")
    assert "run.seed" not in differing
    assert found["summary"] == [{"name": "accuracy_after", "left": 0.5, "right": 0.75}]


def test_an_export_is_jsonl_of_what_matches(client: httpx.Client, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(2):
        do_step(run, step)
    response = client.get("/runs/demo/export", params={"min_reward": 1})
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert [row["reward"] for row in rows] == [1.0] * 4 and rows[0]["prompt"][0]["role"] == "user"
    assert "attachment" in response.headers["content-disposition"]
    records = client.get("/runs/demo/export", params={"what": "metrics"}).text.splitlines()
    assert [json.loads(line)["step"] for line in records] == [0, 1]


def test_the_sources_table_is_of_the_last_steps(client: httpx.Client, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        write_rows(run, step, [a_row(run, step, 0, 0, feedback=[answer(f"source{step}")])])
    found = got(client, "/runs/demo/sources", last_steps=1)
    assert (found["steps"], [one["name"] for one in found["items"]]) == (1, ["source2"])


def test_every_route_asks_for_the_key_and_the_page_does_not(client: httpx.Client, tmp_path: Path) -> None:
    do_step(a_run(tmp_path), 0)
    base = str(client.base_url).removesuffix("v1/")
    paths = [path for path in httpx.get(base + "openapi.json").json()["paths"] if path.startswith("/v1/")]
    assert len(paths) >= 10
    for path in paths:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert httpx.get(base + path.replace("{run}", "demo")[1:], headers=headers).status_code == 401
    assert httpx.get(base).status_code == 200
