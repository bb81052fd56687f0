"""OpenAI-compatible routes: chat and text completions, and the list of models.

The policy is called `policy`, and by the name it has in the settings. A stream brings the whole text in one piece:
the engine hands out finished rollouts.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from services.inference.engine import Engine
from services.inference.openai_types import ChatRequest, CompletionRequest
from services.inference.sampling_requests import check_ids, check_room, sample
from shared.errors import DataError
from shared.protocol import PromptRollouts, Rollout
from shared.service import Problem
from shared.settings import Settings

MODEL_NAME = "policy"
Answer = dict[str, Any]

_CHAT_EXAMPLE: dict[str, Example] = {
    "a question": {
        "value": {"model": MODEL_NAME, "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 32}
    }
}
_TEXT_EXAMPLE: dict[str, Example] = {
    "a text": {"value": {"model": MODEL_NAME, "prompt": "def add(", "max_tokens": 32}},
}


def make_openai_router(settings: Settings, engine: Engine) -> APIRouter:
    """The routes over `engine`."""
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
        request: Annotated[ChatRequest, Body(openapi_examples=_CHAT_EXAMPLE)],
    ) -> StreamingResponse | Answer:
        """Continue a chat."""
        _check_model(request.model, names)
        ids = [engine.render([message.to_message() for message in request.messages])]
        max_tokens = _max_tokens(engine, ids, request.max_tokens)
        made = await sample(engine, ids, request.n, request.sampling(max_tokens))
        choices = [
            _chat_choice(engine, choice, bool(request.logprobs)) for choice in _choices(engine, made, request.stops)
        ]
        answer = _envelope("chatcmpl", "chat.completion", request.model, choices, _usage(made))
        if not request.stream:
            return answer
        return _stream(_chat_chunks(answer), answer, usage=_wants_usage(request))

    @router.post("/completions", response_model=None)
    async def completions(
        request: Annotated[CompletionRequest, Body(openapi_examples=_TEXT_EXAMPLE)],
    ) -> StreamingResponse | Answer:
        """Continue plain texts or token ids."""
        _check_model(request.model, names)
        ids = _prompts(engine, request.prompt)
        check_room(engine, ids, request.max_tokens, "max_tokens")
        made = await sample(engine, ids, request.n, request.sampling(request.max_tokens))
        wants = request.logprobs is not None
        choices = [_text_choice(engine, choice, wants) for choice in _choices(engine, made, request.stops)]
        answer = _envelope("cmpl", "text_completion", request.model, choices, _usage(made))
        if not request.stream:
            return answer
        return _stream([answer | {"choices": [choice]} for choice in choices], answer, usage=_wants_usage(request))

    return router


# ------------------------------------------------------------------------------------------------------- requests


def _check_model(name: str, names: Sequence[str]) -> None:
    if name not in names:
        known = " and ".join(repr(known) for known in names)
        raise Problem(
            404, "Unknown Model", f"There is no model of that name; the policy is called {known}.", field="model"
        )


def _max_tokens(engine: Engine, ids: Sequence[list[int]], wanted: int | None) -> int:
    if wanted is None:
        wanted = max(1, engine.info.max_context - max(map(len, ids)))
    check_room(engine, ids, wanted, "max_tokens")
    return wanted


def _prompts(engine: Engine, prompt: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
    if isinstance(prompt, str):
        several: list[Any] = [prompt]
    else:
        several = [prompt] if prompt and isinstance(prompt[0], int) else list(prompt)
    if not several:
        raise DataError("prompt is empty.", field="prompt")
    ids = [engine.encode(one) if isinstance(one, str) else one for one in several]
    for one in ids:
        check_ids(engine, one, "prompt")
    return ids


def _wants_usage(request: ChatRequest | CompletionRequest) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage


# -------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class _Choice:
    """One rollout as it is shown: cut at a stop string, if one came."""

    index: int
    text: str
    tokens: list[tuple[int, float]]
    finish_reason: str


def _choices(engine: Engine, made: Sequence[PromptRollouts], stops: Sequence[str]) -> list[_Choice]:
    rollouts = itertools.chain.from_iterable(prompt.rollouts for prompt in made)
    return [_choice(engine, index, rollout, stops) for index, rollout in enumerate(rollouts)]


def _choice(engine: Engine, index: int, rollout: Rollout, stops: Sequence[str]) -> _Choice:
    tokens = list(zip(rollout.token_ids, rollout.logprobs, strict=True))
    cuts = [at for at in (rollout.text.find(stop) for stop in stops) if at >= 0]
    if not cuts:
        return _Choice(index, rollout.text, tokens, rollout.finish_reason)
    text = rollout.text[: min(cuts)]
    kept = next(count for count in range(len(tokens) + 1) if len(engine.decode(rollout.token_ids[:count])) >= len(text))
    return _Choice(index, text, tokens[:kept], "stop")


def _chat_choice(engine: Engine, choice: _Choice, logprobs: bool) -> Answer:
    content = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in _pieces(engine, choice)
    ]
    return {
        "index": choice.index,
        "message": {"role": "assistant", "content": choice.text, "refusal": None},
        "logprobs": {"content": content, "refusal": None} if logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def _text_choice(engine: Engine, choice: _Choice, logprobs: bool) -> Answer:
    shown: Answer | None = None
    if logprobs:
        pieces = _pieces(engine, choice)
        lengths = [len(text) for text, _ in pieces]
        shown = {
            "tokens": [text for text, _ in pieces],
            "token_logprobs": [logprob for _, logprob in pieces],
            "top_logprobs": None,
            "text_offset": [0, *itertools.accumulate(lengths)][: len(pieces)],
        }
    return {"index": choice.index, "text": choice.text, "logprobs": shown, "finish_reason": choice.finish_reason}


def _pieces(engine: Engine, choice: _Choice) -> list[tuple[str, float]]:
    return [(engine.decode([token]), logprob) for token, logprob in choice.tokens]


def _usage(made: Sequence[PromptRollouts]) -> Answer:
    prompt = sum(len(one.prompt_token_ids) for one in made)
    completion = sum(len(rollout.token_ids) for one in made for rollout in one.rollouts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _envelope(prefix: str, kind: str, model: str, choices: list[Answer], usage: Answer) -> Answer:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }


def _model(name: str, created: int) -> Answer:
    return {"id": name, "object": "model", "created": created, "owned_by": "vpd"}


# -------------------------------------------------------------------------------------------------------- streams


def _chat_chunks(answer: Answer) -> list[Answer]:
    chunks: list[Answer] = []
    for choice in answer["choices"]:
        message = {"role": "assistant", "content": choice["message"]["content"]}
        first = {"index": choice["index"], "delta": message, "logprobs": choice["logprobs"], "finish_reason": None}
        last = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        chunks += [answer | {"object": "chat.completion.chunk", "choices": [delta]} for delta in (first, last)]
    return chunks


def _stream(chunks: Iterable[Answer], answer: Answer, *, usage: bool) -> StreamingResponse:
    async def events() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield _event(
                {key: value for key, value in chunk.items() if key != "usage"} | ({"usage": None} if usage else {})
            )
        if usage:
            kind = "chat.completion.chunk" if answer["object"] == "chat.completion" else answer["object"]
            yield _event(answer | {"object": kind, "choices": []})
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _event(value: Answer) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"
