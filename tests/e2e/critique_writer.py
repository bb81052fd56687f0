"""A run whose only feedback in words is what a person writes by the REST API, and the person."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
from serving import running

from cli import in_process
from services.human_feedback.app import create_app
from shared.protocol import FeedbackItem
from shared.settings import HumanFeedbackSettings, Settings
from trainer.tasks import World, load_world

WORLD = "house_dialect"
MAX_ENTRIES = 100
POLL_S = 0.05


def train(root: Path, name: str, redis_url: str, *, seed: int, steps: int, exchanged: bool) -> None:
    """Train `steps` steps in this process; the run's files are in `root/name`.

    The environment's judge gives the reward and no word. A step waits until the person has written about all of its
    failed rollouts, with `exchanged` about another prompt's each. human-feedback answers on a socket of its own.
    """
    own = HumanFeedbackSettings(database=str(root / f"{name}.sqlite3"), wait_s=300.0)
    with running(create_app(Settings(human_feedback=own))) as url:
        person = Writer(url, load_world(WORLD, world_seed=seed, seed=seed), exchanged=exchanged)
        person.start()
        try:
            in_process.run(_settings(root, name, redis_url, url, seed=seed, steps=steps))
        finally:
            person.stop.set()
            person.join()


def held_out(directory: Path) -> list[float]:
    """The student's held-out accuracy before the run, after so many steps each, and after it."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [record["student_accuracy"] for record in records if record["kind"] == "evaluation"]


class Writer(threading.Thread):
    """Someone who knows the house and writes what is wrong with each failed rollout; `exchanged` sends it about a
    rollout of another prompt."""

    def __init__(self, url: str, world: World, *, exchanged: bool) -> None:
        super().__init__()
        self.stop = threading.Event()
        self._http = httpx.Client(base_url=url, timeout=60)
        self._world = world
        self._exchanged = exchanged
        self._read: set[str] = set()

    def run(self) -> None:
        """Write about what is new until told to stop."""
        while not self.stop.is_set():
            if failed := self._new_failures():
                self._write(failed)
            else:
                self.stop.wait(POLL_S)

    def _new_failures(self) -> list[FeedbackItem]:
        (newest, *_), everything = self._rollouts(limit=1) or [None], []
        if newest is not None and newest["trajectory_id"] not in self._read:
            everything = self._rollouts(limit=500)
        new = [found["item"] for found in everything if found["trajectory_id"] not in self._read]
        self._read |= {found["trajectory_id"] for found in everything}
        return [FeedbackItem.model_validate(item) for item in new if item["success"] is False]

    def _rollouts(self, *, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get("/v1/rollouts", params={"limit": limit}).json()["items"]
        return found

    def _write(self, failed: list[FeedbackItem]) -> None:
        failed = sorted(failed, key=lambda item: item.trajectory_id)
        half = len(failed) // 2 if self._exchanged else 0
        meant = failed[half:] + failed[:half]
        entries = [
            {"trajectory_id": item.trajectory_id, "text": self._world.remark(other.task, other.response.text)}
            for item, other in zip(failed, meant, strict=True)
        ]
        for start in range(0, len(entries), MAX_ENTRIES):
            some = entries[start : start + MAX_ENTRIES]
            answer = self._http.post("/v1/critiques/batch", json={"items": some})
            assert [result["error"] for result in answer.json()["results"]] == [None] * len(some)


def _settings(root: Path, name: str, redis_url: str, human: str, *, seed: int, steps: int) -> Settings:
    sources = {
        "code": {"url": in_process.ADDRESSES["code-feedback"], "role": "outcome"},
        "human": {"url": human, "role": "critique", "timeout_s": 300.0, "required": True},
    }
    return Settings.model_validate(
        {
            "run": {"name": name, "dir": str(root), "seed": seed, "steps": steps},
            "model": {"path": f"builtin:{WORLD}", "device": "cpu"},
            "tasks": {"source": f"builtin:{WORLD}", "world_seed": seed},
            "feedback": {"sources": sources},
            # A sibling that succeeded would be a machine's word as well.
            "teacher_prompt": {"demonstration": False},
            "queue": {"url": redis_url},
            "evaluation": {"every": steps, "tasks": 100, "final_tasks": 100},
        }
    )
