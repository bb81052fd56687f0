"""A human-feedback service for tests: settings, rollouts to ask about, requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from feedback_builders import an_item
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from services.human_feedback import rollouts, schema
from shared.protocol import FeedbackItem, Sibling
from shared.settings import HumanFeedbackSettings, Settings

SERVER = """
import sys
from services.human_feedback.app import create_app
from shared.service import serve
from shared.settings import HumanFeedbackSettings, Settings
settings = Settings(human_feedback=HumanFeedbackSettings(database=sys.argv[1], review="all"))
serve(create_app(settings), settings, 0)
"""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def settings(path: Path | str, *, key: str | None = None, **own: Any) -> Settings:
    """Settings of a service with its store at `path`, whose reviewers see every rollout."""
    return Settings(api_key=key, human_feedback=HumanFeedbackSettings(database=str(path), **{"review": "all", **own}))


@contextmanager
def a_store(**own: Any) -> Iterator[Connection]:
    """A transaction on a store in memory."""
    with create_engine("sqlite://", poolclass=StaticPool).begin() as db:
        schema.prepare(db, HumanFeedbackSettings(**{"review": "all", **own}))
        yield db


def remember(db: Connection, *items: FeedbackItem, run_id: str = "run", **own: Any) -> None:
    """Rollouts that the collector has asked about."""
    rollouts.remember(db, run_id, items, HumanFeedbackSettings(**{"review": "all", **own}), now=0.0)


def failed(name: str, *rewards: float, **fields: Any) -> FeedbackItem:
    """A rollout that failed, with siblings of these rewards."""
    siblings = [Sibling(trajectory_id=f"{name}-s{i}", text="y", reward=r) for i, r in enumerate(rewards)]
    return an_item(trajectory_id=name, reward=0.0, success=False, siblings=siblings, **fields)


def a_question(*items: FeedbackItem, run_id: str = "run", deadline_s: float = 30.0) -> dict[str, Any]:
    """The body of `POST /v1/feedback`."""
    return {"run_id": run_id, "deadline_s": deadline_s, "items": [item.model_dump(mode="json") for item in items]}


@contextmanager
def process(place: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as a process of its own, with its base URL."""
    command = [sys.executable, "-c", SERVER, place]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert started.stderr is not None
    port = json.loads(started.stderr.readline())["port"]
    # A log that nobody reads stops who writes it.
    reading = threading.Thread(target=started.stderr.read)
    reading.start()
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.wait()
        reading.join()
        started.stderr.close()


def claim(client: httpx.Client, reviewer: str, **fields: Any) -> dict[str, Any] | None:
    """The next task, None where there is none."""
    response = client.post("/v1/review/claims", json={"reviewer": reviewer, **fields})
    assert response.status_code in (201, 204), response.text
    found: dict[str, Any] | None = response.json() if response.status_code == 201 else None
    return found
