"""The shapes of OpenAI's answers: whole ones and the chunks of a stream, for chats and for plain texts."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from pydantic_core import to_json

from services.inference.engine import Piece
from services.inference.openai_choice import Choice, Shown
from services.inference.text import Text
from shared.errors import VPDError

Answer = dict[str, Any]


class Shape(Protocol):
    """How choices look on one of the routes."""

    prefix: str
    kind: str
    chunk_kind: str

    def choice(self, index: int, shown: Shown) -> Answer:
        """A whole choice."""

    def opening(self, index: int) -> Answer | None:
        """The first chunk's choice."""

    def chunk(self, index: int, shown: Shown) -> Answer | None:
        """A chunk's choice; None if there is nothing to show."""

    def closing(self, index: int, finish_reason: str) -> Answer:
        """The last chunk's choice."""


class Chat:
    """Choices of `/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, text: Text, *, logprobs: bool) -> None:
        self._text = text
        self._wants_logprobs = logprobs

    def choice(self, index: int, shown: Shown) -> Answer:
        """A whole choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": shown.text, "refusal": None},
            "logprobs": self._logprobs(shown),
            "finish_reason": shown.finish_reason,
        }

    def opening(self, index: int) -> Answer:
        """The first chunk's choice: who speaks."""
        return _delta(index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, index: int, shown: Shown) -> Answer | None:
        """A chunk's choice; None if there is nothing to show."""
        if not shown.text and not (self._wants_logprobs and shown.tokens):
            return None
        return _delta(index, {"content": shown.text}, self._logprobs(shown), None)

    def closing(self, index: int, finish_reason: str) -> Answer:
        """The last chunk's choice."""
        return _delta(index, {}, None, finish_reason)

    def _logprobs(self, shown: Shown) -> Answer | None:
        if not self._wants_logprobs:
            return None
        texts = [(self._text.decode([token]), logprob) for token, logprob in shown.tokens]
        content = [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in texts
        ]
        return {"content": content, "refusal": None}


class Completion:
    """Choices of `/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, text: Text, *, logprobs: bool) -> None:
        self._text = text
        self._wants_logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def choice(self, index: int, shown: Shown) -> Answer:
        """A whole choice."""
        finish_reason = shown.finish_reason
        return {
            "index": index,
            "text": shown.text,
            "logprobs": self._logprobs(index, shown),
            "finish_reason": finish_reason,
        }

    def opening(self, _: int) -> None:
        """Nothing: a text has no first chunk of its own."""
        return

    def chunk(self, index: int, shown: Shown) -> Answer | None:
        """A chunk's choice; None if there is nothing to show."""
        if not shown.text and not (self._wants_logprobs and shown.tokens):
            return None
        return {"index": index, "text": shown.text, "logprobs": self._logprobs(index, shown), "finish_reason": None}

    def closing(self, index: int, finish_reason: str) -> Answer:
        """The last chunk's choice."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}

    def _logprobs(self, index: int, shown: Shown) -> Answer | None:
        if not self._wants_logprobs:
            return None
        texts = [self._text.decode([token]) for token, _ in shown.tokens]
        offsets = list(itertools.accumulate(map(len, texts), initial=self._offsets.get(index, 0)))
        self._offsets[index] = offsets.pop()
        return {
            "tokens": texts,
            "token_logprobs": [logprob for _, logprob in shown.tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def whole(shape: Shape, model: str, shown: Sequence[Shown], *, prompt_tokens: int, completion_tokens: int) -> Answer:
    """The answer to a request that does not stream."""
    return {
        **_head(shape.prefix, shape.kind, model),
        "choices": [shape.choice(index, one) for index, one in enumerate(shown)],
        "usage": _usage(prompt_tokens, completion_tokens),
    }


async def events(
    pieces: AsyncGenerator[Piece],
    choices: Sequence[Choice],
    shape: Shape,
    model: str,
    *,
    prompt_tokens: int,
    wants_usage: bool,
) -> AsyncIterator[bytes]:
    """The server-sent events of a stream. Once every choice has ended at a stop string, `pieces` is closed."""
    head = _head(shape.prefix, shape.chunk_kind, model) | ({"usage": None} if wants_usage else {})
    tokens = 0
    for index in range(len(choices)):
        if (opening := shape.opening(index)) is not None:
            yield _event(head | {"choices": [opening]})
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                tokens += len(piece.token_ids)
                for one in _chunks(shape, piece, choices[piece.index]):
                    yield _event(head | {"choices": [one]})
                if all(choice.finished for choice in choices):
                    break
    except VPDError as error:
        yield _event({"error": {"message": str(error), "type": "server_error", "param": None, "code": 503}})
        return
    if wants_usage:
        yield _event(head | {"choices": [], "usage": _usage(prompt_tokens, tokens)})
    yield b"data: [DONE]\n\n"


def _chunks(shape: Shape, piece: Piece, choice: Choice) -> list[Answer]:
    if choice.finished:
        return []
    shown = choice.feed(piece.token_ids, piece.logprobs, piece.finish_reason)
    content = shape.chunk(piece.index, shown)
    ending = [shape.closing(piece.index, shown.finish_reason)] if shown.finish_reason is not None else []
    return ([content] if content is not None else []) + ending


def _head(prefix: str, kind: str, model: str) -> Answer:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(prompt: int, completion: int) -> Answer:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _delta(index: int, delta: Answer, logprobs: Answer | None, finish_reason: str | None) -> Answer:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _event(value: Answer) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"
