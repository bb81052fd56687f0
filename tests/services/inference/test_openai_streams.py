"""Streams of the OpenAI-compatible routes, read with OpenAI's own client, sync and async."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from services.inference.app import create_app
from services.inference.engine import Piece
from services.inference.transformers_engine import TransformersEngine
from shared.errors import EngineFailure
from shared.protocol import Sampling
from tests.services.inference.inference_support import HELLO, settings_for, wait_ready
from tests.serving import running

CHAT: dict[str, Any] = {"model": "policy", "messages": HELLO["messages"], "seed": 4, "max_tokens": 60, "temperature": 2}
TEXT: dict[str, Any] = {"model": "policy", "prompt": ["ab", "c"], "seed": 4, "max_tokens": 60, "temperature": 2}


@pytest.fixture(scope="module")
def client(service: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0)


class Read:
    """A chat or text stream, put together again, choice by choice."""

    def __init__(self, chunks: Sequence[Any]) -> None:
        self.texts: dict[int, str] = {}
        self.tokens: dict[int, list[tuple[str, float]]] = {}
        self.reasons: dict[int, str] = {}
        self.chunks = chunks
        self.usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage), None)
        for chunk in chunks:
            for choice in chunk.choices:
                self._take(choice)

    def _take(self, choice: Any) -> None:
        index = choice.index
        assert index not in self.reasons, "a choice goes on after its end"
        text = choice.delta.content if hasattr(choice, "delta") else choice.text
        self.texts[index] = self.texts.get(index, "") + (text or "")
        self.tokens.setdefault(index, []).extend(_tokens(choice.logprobs))
        if choice.finish_reason:
            self.reasons[index] = choice.finish_reason


def _tokens(logprobs: Any) -> list[tuple[str, float]]:
    if logprobs is None:
        return []
    if hasattr(logprobs, "content"):
        return [(one.token, one.logprob) for one in logprobs.content or []]
    return list(zip(logprobs.tokens, logprobs.token_logprobs, strict=True))


def assert_same(read: Read, whole: Any) -> None:
    """The stream brought what the whole answer has."""
    for choice in whole.choices:
        text = choice.message.content if hasattr(choice, "message") else choice.text
        assert read.texts[choice.index] == text
        assert read.reasons[choice.index] == choice.finish_reason
        assert read.tokens[choice.index] == _tokens(choice.logprobs)
    assert len(read.texts) == len(whole.choices)


@pytest.mark.parametrize(
    "options", [{}, {"n": 3}, {"logprobs": True}, {"n": 2, "logprobs": True, "stop": ["a", "b", "zz"]}]
)
def test_a_chat_stream_adds_up_to_the_whole_answer(client: openai.OpenAI, options: dict[str, Any]) -> None:
    read = Read(list(client.chat.completions.create(**CHAT, **options, stream=True)))
    assert_same(read, client.chat.completions.create(**CHAT, **options))
    first = read.chunks[0]
    assert (first.object, first.choices[0].delta.role) == ("chat.completion.chunk", "assistant")
    assert len({chunk.id for chunk in read.chunks}) == 1
    assert read.usage is None


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"logprobs": 0}, {"n": 2, "logprobs": 0, "stop": ["a", "b", "zz"]}])
def test_a_text_stream_adds_up_to_the_whole_answer(client: openai.OpenAI, options: dict[str, Any]) -> None:
    read = Read(list(client.completions.create(**TEXT, **options, stream=True)))
    assert_same(read, client.completions.create(**TEXT, **options))


@pytest.mark.parametrize("options", [{"n": 2}, {"n": 2, "logprobs": True, "stop": "a"}])
def test_the_asynchronous_client_reads_the_same(
    client: openai.OpenAI, service: httpx.Client, options: dict[str, Any]
) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0) as asked:
            whole = await asked.chat.completions.create(**CHAT, **options)
            stream = await asked.chat.completions.create(**CHAT, **options, stream=True)
            return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(ask())
    assert_same(Read(chunks), whole)
    assert_same(Read(list(client.chat.completions.create(**CHAT, **options, stream=True))), whole)


def test_text_offsets_of_a_stream_are_those_of_the_whole_text(client: openai.OpenAI) -> None:
    asked = TEXT | {"logprobs": 0, "n": 2}
    whole = [choice.logprobs.text_offset for choice in client.completions.create(**asked).choices]
    offsets: dict[int, list[int]] = {}
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            offsets.setdefault(choice.index, []).extend(choice.logprobs.text_offset if choice.logprobs else [])
    assert [offsets[index] for index in sorted(offsets)] == whole


def test_the_usage_comes_last_when_it_is_asked_for(client: openai.OpenAI) -> None:
    asked = CHAT | {"n": 2}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == client.chat.completions.create(**asked).usage
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])


# ------------------------------------------------------------------------------------------- an engine of our own


class ScriptedEngine(TransformersEngine):
    """Streams the letters of `script`, one a piece, the next when `go` is set, and then fails or waits for ever."""

    script = "abcdef"
    failure: Exception | None = None

    def begin(self) -> None:
        self.go = threading.Semaphore(0)
        self.entered, self.closed = threading.Event(), threading.Event()

    async def stream(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> AsyncIterator[Piece]:
        self.entered.set()
        letters = {chr(value): token for token, value in _letters().items()}
        try:
            for letter in self.script:
                await asyncio.to_thread(self.go.acquire, timeout=30)
                yield Piece(0, [letters[letter]], [-1.0], None)
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        finally:
            self.closed.set()


def _letters() -> dict[int, int]:
    # tests/tiny_model.py: the byte-level alphabet after five special tokens; "!" is its first letter.
    return {5 + place: ord("!") + place for place in range(94)}


@pytest.fixture
def scripted(tiny_model_dir: Path, tmp_path: Path) -> ScriptedEngine:
    settings = settings_for(tiny_model_dir, tmp_path / "root")
    engine = ScriptedEngine(settings.model, settings.inference)
    engine.begin()
    return engine


@pytest.fixture
def url(tiny_model_dir: Path, tmp_path: Path, scripted: ScriptedEngine) -> Iterator[str]:
    with running(create_app(settings_for(tiny_model_dir, tmp_path / "root"), scripted)) as url, wait_ready(url):
        yield url
        # A thread that still waits would hold up the end of the server.
        scripted.go.release(100)


def test_text_comes_as_it_is_made(url: str, scripted: ScriptedEngine) -> None:
    scripted.go.release()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none").completions.create(**TEXT, stream=True) as stream:
        for chunk, letter in zip(stream, "abc", strict=False):
            assert chunk.choices[0].text == letter
            scripted.go.release()
    assert scripted.closed.wait(30)


def test_once_every_choice_has_met_its_stop_string_the_generation_is_stopped(
    url: str, scripted: ScriptedEngine
) -> None:
    scripted.go.release(6)
    asked = TEXT | {"prompt": "x", "stop": ["cd"]}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=30) as client:
        read = Read(list(client.completions.create(**asked, stream=True)))
    assert (read.texts, read.reasons) == ({0: "ab"}, {0: "stop"})
    assert scripted.closed.wait(30)


def test_a_client_that_hangs_up_stops_a_stream(url: str, scripted: ScriptedEngine) -> None:
    scripted.go.release()
    asked = TEXT | {"prompt": "x", "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert not scripted.closed.is_set()
    assert scripted.closed.wait(30)


def test_a_client_that_hangs_up_before_the_first_token_stops_a_stream(url: str, scripted: ScriptedEngine) -> None:
    body = json.dumps(TEXT | {"prompt": "x", "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert scripted.entered.wait(30)
        assert not scripted.closed.is_set()
    assert scripted.closed.wait(30)


def test_an_engine_that_fails_in_mid_stream_ends_it_with_an_error(url: str, scripted: ScriptedEngine) -> None:
    scripted.failure = EngineFailure("The engine is gone.")
    scripted.go.release(6)
    asked = TEXT | {"prompt": "x", "stream": True}
    lines = httpx.post(f"{url}/v1/completions", json=asked, timeout=30).text.strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["message"] == "The engine is gone."
    assert len(lines) == 7
    scripted.go.release(6)
    texts = []
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.APIError, match="The engine is gone"):
        for chunk in client.completions.create(**TEXT | {"prompt": "x"}, stream=True):
            texts.append(chunk.choices[0].text)
    assert "".join(texts) == "abcdef"


def test_an_engine_that_fails_before_the_first_token_is_a_503(url: str, scripted: ScriptedEngine) -> None:
    scripted.script, scripted.failure = "", EngineFailure("The engine is gone.")
    answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=30)
    assert (answer.status_code, answer.json()["detail"]) == (503, "The engine is gone.")
