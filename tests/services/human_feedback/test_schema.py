"""What an earlier release stored is there after the upgrade; what a later one stored is not touched."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest
from feedback_builders import an_item
from serving import running

from services.human_feedback.app import create_app
from shared.errors import InfrastructureError
from tests.services.human_feedback.support import claim, settings

EARLIER = """
CREATE TABLE sequence (value INTEGER NOT NULL);
INSERT INTO sequence VALUES (7);
CREATE TABLE critiques (
    trajectory_id TEXT NOT NULL, identifier TEXT NOT NULL, critique TEXT NOT NULL, status TEXT NOT NULL,
    step INTEGER, reason TEXT, seq INTEGER NOT NULL UNIQUE, updated_at TEXT NOT NULL,
    PRIMARY KEY (trajectory_id, identifier));
CREATE TABLE rollouts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, trajectory_id TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL,
    item TEXT NOT NULL, asked_at TEXT NOT NULL);
CREATE INDEX rollouts_of_run ON rollouts (run_id, number);
INSERT INTO critiques VALUES
    ('r0', 'ann', '{"text":"Use plus.","success":false,"author":"Ann"}', 'used', 4, NULL, 3,
     '2026-11-01T10:00:00.500+00:00'),
    ('r9', 'bob', '{"text":"Later."}', 'stale', 5, 'it had left', 7, '2026-11-01T10:00:01.000+00:00');
"""


def _earlier(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(EARLIER)
        for number in range(3):
            item = an_item(trajectory_id=f"r{number}", success=False).model_dump_json()
            row = (number + 5, f"r{number}", "run", item, "2026-11-01T09:00:00.000+00:00")
            db.execute("INSERT INTO rollouts VALUES (?, ?, ?, ?, ?)", row)
    db.close()


def test_a_file_of_an_earlier_release_keeps_its_critiques_and_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    _earlier(path)
    for _ in range(2):  # the second start finds them moved already
        with running(create_app(settings(path, review="failed"))) as url, httpx.Client(base_url=url) as client:
            used, stale = client.get("/v1/critiques").json()["items"]
            rollouts = client.get("/v1/rollouts").json()["items"]
            new = client.put("/v1/rollouts/r9/critiques/new", json={"text": "x"}).json()
            client.delete("/v1/rollouts/r9/critiques/new")
    said = used["critique"]
    assert (said["text"], said["verdict"], said["author"]) == ("Use plus.", "incorrect", "Ann")
    assert (used["status"], used["step"], used["policy_version"], used["seq"]) == ("used", 4, 5, 3)
    assert used["updated_at"] == "2026-11-01T10:00:00.500+00:00"
    assert (stale["critique"]["verdict"], stale["reason"], stale["policy_version"]) == (None, "it had left", None)
    assert [rollout["trajectory_id"] for rollout in rollouts] == ["r2", "r1", "r0"]
    assert new["seq"] == 9, "a learner's cursor stays valid"


def test_rollouts_of_an_earlier_release_that_want_a_review_are_in_the_queue(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    _earlier(path)
    with running(create_app(settings(path, review="failed"))) as url, httpx.Client(base_url=url) as client:
        tasks = [claim(client, "bob") for _ in range(3)]
    assert [task and task["item"]["trajectory_id"] for task in tasks] == ["r2", "r1", None]


def test_a_quota_that_is_raised_opens_rollouts_again(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    _earlier(path)
    with running(create_app(settings(path, review="failed"))):
        pass
    raised = settings(path, review="failed", reviews_per_rollout=2)
    with running(create_app(raised)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/review/progress").json() == {"total": 3, "done": 0, "held": 0, "mine": 0}


def test_a_store_of_a_later_release_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with running(create_app(settings(path))):
        pass
    with sqlite3.connect(path) as db:
        db.execute("UPDATE human_counters SET value = 99 WHERE name = 'schema'")
    db.close()
    app = create_app(settings(path))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(InfrastructureError, match="schema 99 of a later release"):
        asyncio.run(start())
