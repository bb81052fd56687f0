"""OpenAI-compatible routes: chat and text completions, and the list of models.

The policy is called `policy`, and by the name it has in the settings. What answers look like is `openai_answers.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Request
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from services.inference.engine import Piece
from services.inference.openai_answers import Answer, Chat, Completion, Shape, events, whole
from services.inference.openai_choice import Choice
from services.inference.openai_types import ChatRequest, CompletionRequest
from services.inference.sampling_requests import Requests, answered
from shared.errors import DataError, EngineFailure
from shared.protocol import Sampling
from shared.service import Problem
from shared.settings import Settings

MODEL_NAME = "policy"

_CHAT_EXAMPLE: dict[str, Example] = {
    "a question": {
        "value": {"model": MODEL_NAME, "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 32}
    }
}
_TEXT_EXAMPLE: dict[str, Example] = {
    "a text": {"value": {"model": MODEL_NAME, "prompt": "def add(", "max_tokens": 32}},
}


def make_openai_router(settings: Settings, requests: Requests) -> APIRouter:
    """The routes over an engine."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    names = (MODEL_NAME, settings.model.path)
    started = int(time.time())

    @router.get("/models")
    async def models() -> Answer:
        """The names the policy answers to."""
        return {"object": "list", "data": [_model(name, started) for name in names]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> Answer:
        """One of them."""
        _check_model(name, names)
        return _model(name, started)

    @router.post("/chat/completions", response_model=None)
    async def chat_completions(
        http: Request, request: Annotated[ChatRequest, Body(openapi_examples=_CHAT_EXAMPLE)]
    ) -> StreamingResponse | Answer:
        """Continue a chat."""
        _check_model(request.model, names)
        ids = [requests.text.render([message.to_message() for message in request.messages])]
        left = max(1, requests.engine.info.max_context - len(ids[0]))
        sampling = requests.fitted(ids, request.sampling(request.max_tokens or left), "max_tokens")
        shape = Chat(requests.text, logprobs=bool(request.logprobs))
        return await _answer(http, requests, request, ids, sampling, shape)

    @router.post("/completions", response_model=None)
    async def completions(
        http: Request, request: Annotated[CompletionRequest, Body(openapi_examples=_TEXT_EXAMPLE)]
    ) -> StreamingResponse | Answer:
        """Continue plain texts or token ids."""
        _check_model(request.model, names)
        ids = _prompts(requests, request.prompt)
        sampling = requests.fitted(ids, request.sampling(request.max_tokens), "max_tokens")
        shape = Completion(requests.text, logprobs=request.logprobs is not None)
        return await _answer(http, requests, request, ids, sampling, shape)

    return router


# ------------------------------------------------------------------------------------------------------- requests


def _check_model(name: str, names: Sequence[str]) -> None:
    if name not in names:
        known = " and ".join(repr(known) for known in names)
        raise Problem(
            404, "Unknown Model", f"There is no model of that name; the policy is called {known}.", field="model"
        )


def _prompts(requests: Requests, prompt: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
    if isinstance(prompt, str):
        several: list[Any] = [prompt]
    else:
        several = [prompt] if prompt and isinstance(prompt[0], int) else list(prompt)
    if not several:
        raise DataError("prompt is empty.", field="prompt")
    ids = [requests.text.encode(one) if isinstance(one, str) else one for one in several]
    for one in ids:
        requests.check_ids(one, "prompt")
    return ids


# -------------------------------------------------------------------------------------------------------- answers


async def _answer(
    http: Request,
    requests: Requests,
    request: ChatRequest | CompletionRequest,
    ids: Sequence[list[int]],
    sampling: Sampling,
    shape: Shape,
) -> StreamingResponse | Answer:
    prompt_tokens = sum(map(len, ids))
    if request.stream:
        pieces = await _begun(http, requests.engine.stream(ids, request.n, sampling))
        choices = [Choice(requests.text.stream(), request.stops) for _ in range(len(ids) * request.n)]
        wants_usage = request.wants_usage
        sent = events(pieces, choices, shape, request.model, prompt_tokens=prompt_tokens, wants_usage=wants_usage)
        return StreamingResponse(sent, media_type="text/event-stream")
    made = await answered(http, requests.generate(ids, request.n, sampling))
    responses = [response for several in made for response in several]
    shown = [
        Choice(requests.text.stream(), request.stops).feed(one.token_ids, one.logprobs, one.finish_reason)
        for one in responses
    ]
    completion_tokens = sum(len(one.token_ids) for one in responses)
    return whole(shape, request.model, shown, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


async def _begun(http: Request, pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece]:
    """The same pieces, once the first is there: what fails before it has a status of its own."""

    async def first() -> Piece:
        async for piece in pieces:
            return piece
        raise EngineFailure("The engine ended a stream before its first token.")

    begun = await answered(http, first())

    async def all_of_them() -> AsyncGenerator[Piece]:
        # Unclosed, an engine's generator would go on making tokens.
        async with aclosing(cast(AsyncGenerator[Piece], pieces)):
            yield begun
            async for piece in pieces:
                yield piece

    return all_of_them()


def _model(name: str, created: int) -> Answer:
    return {"id": name, "object": "model", "created": created, "owned_by": "vpd"}
