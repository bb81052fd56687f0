"""A person who writes critiques by the human-feedback REST API, as a script: for experiments about people.

Whenever human-feedback is asked about rollouts, the script reads the failed ones, writes to some of them what a person
who knows the world would remark, and only then is the question answered: a run with a person is as reproducible as one
without.
"""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import httpx

from shared.errors import InfrastructureError
from shared.http_client import Application
from shared.protocol import FeedbackItem, FeedbackRequest
from trainer.tasks import World

IDENTIFIER = "person"


class ScriptedPerson:
    """ASGI: the human-feedback application `app`, with a person who writes to it.

    `rollouts_per_step` failed rollouts get a critique each time the application is asked, drawn by `seed`.
    """

    def __init__(self, app: Application, world: World, *, rollouts_per_step: int, seed: int, key: str | None) -> None:
        self.app = app
        self.world = world
        self.rollouts_per_step = rollouts_per_step
        self.seed = seed
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app=app)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://human-feedback", headers=headers)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", "/v1/feedback"):
            body = await _read(receive)
            await self.write(FeedbackRequest.model_validate_json(body))
            receive = _again(body, receive)
        await self.app(scope, receive, send)

    async def write(self, request: FeedbackRequest) -> None:
        """Put the critiques of one step. Raises InfrastructureError where one is not taken."""
        failed = [item for item in request.items if item.success is False]
        draw = random.Random(f"{self.seed}:{min((_step(item) for item in failed), default='')}")
        draw.shuffle(failed)
        written = 0
        for item in failed:
            if written == self.rollouts_per_step:
                break
            text = self.world.remark(item.task, item.response.text)
            if text is not None:
                await self._put(item.trajectory_id, text)
                written += 1

    async def _put(self, trajectory_id: str, text: str) -> None:
        path = f"/v1/rollouts/{quote(trajectory_id, safe='')}/critiques/{IDENTIFIER}"
        response = await self._http.put(path, json={"text": text, "author": "script"})
        if not response.is_success:
            raise InfrastructureError(f"human-feedback did not take a critique: {response.text}")


def _step(item: FeedbackItem) -> str:
    """`s000012-g003` of a trajectory's id: what is the same when a run is repeated under another id."""
    return "-".join(item.group_id.rsplit("-", 2)[1:])


async def _read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Any) -> Any:
    """A `receive` that gives the body that was read already, then what comes after it."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
