"""Stands in for code-feedback where a run is one process: the world's exact judge behind the feedback protocol.

It says what code-feedback would say about the same response, success and text, without running a program; the tests
of `trainer/tasks/` hold the two equal.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from shared.feedback_results import feedback_id
from shared.protocol import Capabilities, Feedback, FeedbackItem, FeedbackRequest, FeedbackResponse, SourceInfo
from shared.service import create_service
from shared.settings import Settings
from trainer.tasks import World

SOURCE = SourceInfo(name="code", kind="code", version="1")


def create_app(settings: Settings, world: World) -> FastAPI:
    """A source that answers for every task of `world`."""
    app = create_service("code-feedback", settings, description=__doc__ or "")

    def judge(item: FeedbackItem) -> Feedback:
        verdict = world.judge(item.task, item.response.text)
        return Feedback(
            trajectory_id=item.trajectory_id,
            feedback_id=feedback_id(item, SOURCE),
            status="ok",
            reward=float(verdict.success),
            success=verdict.success,
            text=verdict.text,
            source=SOURCE,
        )

    @app.post("/v1/feedback")
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Judge every item."""
        return FeedbackResponse(results=await asyncio.to_thread(lambda: [judge(item) for item in request.items]))

    @app.get("/v1/capabilities")
    async def capabilities() -> Capabilities:
        """What this source can do."""
        return Capabilities(**SOURCE.model_dump(), gives_reward=True, gives_text=True)

    return app
