"""The routes of any feedback source: questions about rollouts, and jobs for those that wait for people."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.openapi.models import Example

from services.human_feedback import questions
from services.human_feedback.desk import Desk, problems
from services.human_feedback.keys import needs
from services.human_feedback.questions import SOURCE
from shared.problems import Problem
from shared.protocol import Capabilities, FeedbackRequest, FeedbackResponse, Identifier, Job

UNKNOWN = problems(s404="There is no such job.")
_QUESTION_EXAMPLE: dict[str, Example] = {
    "one rollout that failed": {
        "value": {
            "run_id": "demo-1a2b3c",
            "items": [
                {
                    "trajectory_id": "demo-1a2b3c-s000003-g000-r00",
                    "group_id": "demo-1a2b3c-s000003-g000",
                    "policy_version": 3,
                    "task": {
                        "id": "add",
                        "kind": "code.functional",
                        "messages": [{"role": "user", "content": "Write add(x, y)."}],
                    },
                    "response": {"text": "def add(x, y):\n    return x - y"},
                    "reward": 0.0,
                    "success": False,
                    "said": [
                        {
                            "source": "code",
                            "status": "ok",
                            "text": "Wrong answer: passed 0 of 1 tests.",
                            "reward": 0.0,
                            "success": False,
                        }
                    ],
                }
            ],
        }
    }
}


def router(desk: Desk) -> APIRouter:
    """The feedback protocol."""
    found = APIRouter(tags=["source"])

    @found.post(
        "/feedback",
        dependencies=[needs("ingest")],
        response_model=FeedbackResponse,
        responses={202: {"model": Job, "description": "It waits for people."}},
    )
    async def feedback(
        request: Annotated[FeedbackRequest, Body(openapi_examples=_QUESTION_EXAMPLE)],
    ) -> FeedbackResponse | Response:
        """Remember the rollouts; say what people have written about them. With `human_feedback.wait_s`, the answer is a
        job (202) where people are yet to write about some."""
        now = desk.clock()
        answer = await desk.run(lambda db: questions.ask(db, request, desk.settings, now=now))
        if isinstance(answer, Job):
            return Response(answer.model_dump_json(), 202, media_type="application/json")
        return FeedbackResponse(results=answer)

    @found.get("/jobs/{job_id}", dependencies=[needs("ingest")], responses=UNKNOWN)
    async def get_job(job_id: Identifier) -> Job:
        """A question that waits for people: done when they have written, or at its deadline."""
        now = desk.clock()
        job = await desk.run(lambda db: questions.look(db, job_id, now=now))
        if job is None:
            raise _unknown()
        return job

    @found.delete("/jobs/{job_id}", status_code=204, dependencies=[needs("ingest")], responses=UNKNOWN)
    async def delete_job(job_id: Identifier) -> None:
        """Give a question up."""
        if not await desk.run(lambda db: questions.give_up(db, job_id)):
            raise _unknown()

    @found.get("/capabilities", dependencies=[needs("read")])
    async def capabilities() -> Capabilities:
        """What this source can do."""
        return Capabilities(**SOURCE.model_dump(), gives_text=True, needs_siblings=True, needs_feedback=True)

    return found


def _unknown() -> Problem:
    return Problem(404, "Not Found", "There is no such job.")
