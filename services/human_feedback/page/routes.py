"""What the review page asks for beyond the API of review work: a task's texts as HTML, and what became of critiques."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.middleware import Middleware

from services.human_feedback import critiques, reviews
from services.human_feedback.desk import Desk, problems
from services.human_feedback.keys import needs
from services.human_feedback.page.code import response_html
from services.human_feedback.page.diff import diff_html
from services.human_feedback.page.markdown import markdown_html
from services.web.page import StaticPage
from shared.critique_text import critique_text
from shared.problems import Problem
from shared.protocol import Critique, CritiquePage, FeedbackItem, Identifier, Wire

PAGE = Middleware(StaticPage, at="/review/", folder=Path(__file__).parent / "static")
TASK = "/tasks/{claim_id}"
UNKNOWN = problems(s404="There is no such claim.")


class Rendered(Wire):
    """HTML that is safe to show: whatever was text in its source is text in it."""

    html: str


class Preview(Wire):
    """A critique as it will look, and the text that the teacher will read of it."""

    html: str
    fix_html: str | None = None
    teacher_reads: str


def router(desk: Desk, guidelines: str) -> APIRouter:
    """The page's own routes."""
    found = APIRouter(prefix="/review", tags=["review page"], dependencies=[needs("review")])
    _add_task(found, desk)

    @found.get("/guidelines")
    async def get_guidelines() -> Rendered:
        """The guidelines, from Markdown."""
        return Rendered(html=markdown_html(guidelines))

    @found.get("/critiques/{reviewer}")
    async def get_my_critiques(reviewer: Identifier, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> CritiquePage:
        """The reviewer's last critiques, newest first, and what became of them."""
        return CritiquePage(items=await desk.run(lambda db: critiques.newest_of(db, reviewer, limit)))

    return found


def _add_task(router: APIRouter, desk: Desk) -> None:
    async def item_of(claim_id: str) -> FeedbackItem:
        return (await desk.run(lambda db: reviews.task(db, claim_id, blind=False))).item

    @router.get(TASK + "/view", responses=UNKNOWN)
    async def get_view(claim_id: Identifier) -> Rendered:
        """The response of a claimed rollout, with its code in colours. The text of the HTML is the response's own,
        character for character."""
        item = await item_of(claim_id)
        is_code = item.task.kind.startswith("code.")
        return Rendered(html=await asyncio.to_thread(response_html, item.response.text, is_code=is_code))

    @router.get(TASK + "/siblings/{number}", responses=problems(s404="There is no such claim or sibling."))
    async def get_sibling(claim_id: Identifier, number: int) -> Rendered:
        """What sibling `number` (0-based) has in place of the response's lines."""
        item = await item_of(claim_id)
        if not 0 <= number < len(item.siblings):
            raise Problem(404, "Not Found", "There is no such sibling.")
        sibling = item.siblings[number].text
        return Rendered(html=await asyncio.to_thread(diff_html, item.response.text, sibling))

    @router.post(TASK + "/preview", responses=UNKNOWN)
    async def preview(claim_id: Identifier, critique: Critique) -> Preview:
        """A critique in the making as it will look; nothing is stored."""
        response = (await item_of(claim_id)).response.text
        fix = critique.corrected_response
        return Preview(
            html=markdown_html(critique.text),
            fix_html=None if fix is None else await asyncio.to_thread(diff_html, response, fix),
            teacher_reads=critique_text(critique, response),
        )
