"""A human-feedback service with rollouts of the built-in world, and a reviewer's hands on its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from browser_support import Visitor
from playwright.sync_api import Locator, Page, expect

from services.human_feedback.app import create_app
from shared.protocol import FeedbackItem, Response, Said, Sibling
from shared.settings import HumanFeedbackSettings, Settings
from trainer.tasks import load_world
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.programs import Call, asked, program

GUIDELINES = """Say **what is wrong** and what would be right, in one or two sentences.

- Name the function or the line: `lib.double` is called `lib.twofold` here.
- Remark on passages where a remark is short.
- Suggest a fix only if you are sure of it.
"""


class Clock:
    """Seconds that pass when a test says so."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A running service: `url` of its page, `clock`, and its API as its admin and collector know it."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url + "/review/"
        self.clock = clock
        self.api = httpx.Client(base_url=url, headers={"Authorization": "Bearer admin"}, timeout=30)

    def ask(self, *items: FeedbackItem) -> None:
        """What the collector does: the rollouts are known from then on."""
        body = {"run_id": "demo", "items": [item.model_dump(mode="json") for item in items]}
        self.api.post("/v1/feedback", json=body).raise_for_status()

    def critiques(self) -> list[dict[str, Any]]:
        """All critiques, in the order of their writes."""
        found: list[dict[str, Any]] = self.api.get("/v1/critiques").raise_for_status().json()["items"]
        return found

    def review(self, visitor: Visitor, name: str = "Ada Lovelace", **options: Any) -> Page:
        """The page, in a browser of its own, for a reviewer who has given a name; the first task is there."""
        page = visitor.open(self.url + "#key=review", **options)
        page.get_by_label("Name").fill(name)
        page.keyboard.press("Enter")
        expect(box(page)).to_be_visible()
        return page


@contextmanager
def a_desk(visitor: Visitor, folder: Path, *items: FeedbackItem, **own: Any) -> Iterator[Desk]:
    """The service with its keys on and these rollouts, all to be reviewed, the last of them first."""
    guidelines = folder / "guidelines.md"
    guidelines.write_text(GUIDELINES)
    settings = Settings(
        api_key="admin",
        human_feedback=HumanFeedbackSettings(
            database=str(folder / "critiques.sqlite3"),
            **{"review": "all", "review_key": "review", "guidelines": str(guidelines), **own},
        ),
    )
    clock = Clock()
    with visitor.at(create_app(settings, clock)) as url:
        desk = Desk(url, clock)
        if items:
            desk.ask(*items)
        yield desk
        desk.api.close()


def world_items(count: int = 3) -> list[FeedbackItem]:
    """Failed attempts at tasks of the renamed library, with siblings, and what code-feedback says about them."""
    world = load_world("renamed_library", world_seed=1, seed=1)
    items = []
    for number, task in enumerate(world.training(0, count)):
        attempt, *others = _attempts(task.messages[-1].content)
        outcome = world.judge(task, attempt)
        judged = [(other, world.judge(task, other).success) for other in others]
        siblings = [
            Sibling(trajectory_id=f"demo.0.{number}.{at}", text=text, reward=float(success), success=success)
            for at, (text, success) in enumerate(judged, 1)
        ]
        said = Said(source="code", status="ok", text=outcome.text, reward=0.0, success=outcome.success)
        items.append(
            FeedbackItem(
                trajectory_id=f"demo.0.{number}.0",
                group_id=f"demo.0.{number}",
                policy_version=12,
                task=task,
                response=Response(text=attempt),
                reward=0.0,
                success=outcome.success,
                siblings=siblings,
                said=[said],
            )
        )
    return items


def world_remark(item: FeedbackItem) -> str:
    """What somebody who knows the library says about a failed attempt."""
    remark = load_world("renamed_library", world_seed=1, seed=1).remark(item.task, item.response.text)
    assert remark is not None
    return remark


def _attempts(question: str) -> list[str]:
    """Programs for a question: by the usual names, with the right name of the first step, right, and cut short."""
    library = world_library(1)
    usual = [Call(step.concept.usual, step.constant) for step in asked(question)]
    right = [Call(library.real(step.concept), step.constant) for step in asked(question)]
    return [program(calls) for calls in (usual, right[:1] + usual[1:], right, right[:-1])]


def an_item(trajectory_id: str = "demo.0.0.0", response: str = "An answer.", **fields: Any) -> FeedbackItem:
    """A small rollout."""
    task = world_items(1)[0].task
    return FeedbackItem(
        trajectory_id=trajectory_id,
        group_id="demo.0.0",
        policy_version=1,
        response=Response(text=response),
        **{"task": task, **fields},
    )


def box(page: Page) -> Locator:
    """Where the critique is written."""
    return page.get_by_role("textbox", name="Your critique")


def saved(page: Page) -> None:
    """Wait until the draft is at the service."""
    expect(page.locator("#saved")).to_have_text("Saved")
