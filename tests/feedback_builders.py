"""Small feedback items and settings for tests."""

from __future__ import annotations

from typing import Any

from shared.protocol import FeedbackItem, Message, Response, Task
from shared.settings import SourceSettings


def an_item(number: int = 0, *, text: str = "x", kind: str = "any", answer: Any = None, **fields: Any) -> FeedbackItem:
    """Item `r<number>` of group `g0` unless told otherwise."""
    group = fields.pop("group_id", "g0")
    finish_reason = fields.pop("finish_reason", "stop")
    return FeedbackItem(
        trajectory_id=fields.pop("trajectory_id", f"r{number}"),
        group_id=group,
        policy_version=0,
        task=Task(
            id="t0",
            kind=kind,
            messages=[Message(role="user", content="What is it?")],
            reference={} if answer is None else {"answer": answer},
        ),
        response=Response(text=text, finish_reason=finish_reason),
        **fields,
    )


def a_source(url: str, **fields: Any) -> SourceSettings:
    """A critique source at `url`."""
    return SourceSettings(url=url, **fields)


def a_result(item_id: str, **said: Any) -> dict[str, Any]:
    """A well-formed result as JSON."""
    source = {"name": "theirs", "kind": "rule", "version": "7"}
    return {"trajectory_id": item_id, "feedback_id": f"{item_id}:f", "status": "ok", "source": source, **said}
