"""The inference client: against the real service, and against servers that fail in each way a server can."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from services.inference.app import create_app
from shared.errors import DataError, ServiceUnavailable
from shared.inference_client import InferenceClient
from shared.protocol import Canary, Message, PolicyPublication, PolicyState, Prompt, Sampling, ScoreSequence
from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.serving import running
from tests.tiny_model import tiny_model

T = TypeVar("T")
HELLO = Prompt(messages=[Message(role="user", content="hello")])
STATE = PolicyState(run_id="run-1", version=3, model="m", max_context=8)


def ask(
    url: str,
    call: Callable[[InferenceClient], Awaitable[T]],
    *,
    key: str | None = None,
    timeout_s: float = 30,
) -> T:
    """The result of one call of a client of its own."""

    async def run() -> T:
        settings = InferenceSettings(url=url, timeout_s=timeout_s)
        async with InferenceClient(settings, api_key=SecretStr(key) if key else None) as client:
            return await call(client)

    return asyncio.run(run())


@contextmanager
def answering(respond: Callable[[Request], Coroutine[Any, Any, Response]]) -> Iterator[str]:
    """A server that answers everything with `respond`."""
    app = FastAPI()
    app.add_route("/{path:path}", respond, methods=["GET", "POST"])
    with running(app) as url:
        yield url


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def service(tiny_model_dir: Path, root: Path) -> Iterator[str]:
    settings = Settings(
        api_key=SecretStr("sesame"),
        model=ModelSettings(path=str(tiny_model_dir), device="cpu"),
        inference=InferenceSettings(policy_root=str(root), threads=1),
    )
    with running(create_app(settings)) as url:
        ask(url, lambda client: client.wait_ready(30), key="sesame")
        yield url


def publication(root: Path, version: int) -> PolicyPublication:
    directory = root / f"v{version}"
    tiny_model(seed=version).save_pretrained(directory)
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    return PolicyPublication(run_id="run:1", version=version, path=str(directory), sha256=digest)


def test_a_published_version_is_what_rollouts_come_from(service: str, root: Path) -> None:
    async def publish_and_sample(client: InferenceClient) -> tuple[PolicyState, set[int], int]:
        state = await client.publish(publication(root, 7))
        sampling = Sampling(max_tokens=4, seed=1)
        made = await client.rollouts([HELLO, Prompt(token_ids=[9, 70])], n=3, sampling=sampling)
        rollouts = [rollout for prompt in made.prompts for rollout in prompt.rollouts]
        return state, {rollout.policy_version for rollout in rollouts}, len(rollouts)

    state, versions, count = ask(service, publish_and_sample, key="sesame")
    assert (state.run_id, state.version) == ("run:1", 7)
    assert (versions, count) == ({7}, 6)


def test_tokens_are_scored_after_their_prompts(service: str) -> None:
    async def sample_and_score(client: InferenceClient) -> tuple[list[float], list[float]]:
        made = await client.rollouts([HELLO], n=1, sampling=Sampling(max_tokens=6, seed=1))
        [prompt] = made.prompts
        [rollout] = prompt.rollouts
        sequence = ScoreSequence(prompt_token_ids=prompt.prompt_token_ids, token_ids=rollout.token_ids)
        first, again = await client.score([sequence, sequence])
        assert first == again
        return first.logprobs, rollout.logprobs

    scored, sampled = ask(service, sample_and_score, key="sesame")
    assert scored == pytest.approx(sampled, abs=1e-4)


def test_a_version_whose_canary_is_wrong_is_unavailable_at_once(service: str, root: Path) -> None:
    wrong = publication(root, 6).model_copy(update={"canary": Canary(token_ids=[5, 6, 7], logprobs=[-0.5, -0.5])})
    with pytest.raises(ServiceUnavailable, match="failed: Version 6 of run run:1 is blocked"):
        ask(service, lambda client: client.publish(wrong), key="sesame")
    assert ask(service, lambda client: client.publish(publication(root, 6)), key="sesame").blocked is None


def test_waiting_for_another_version_returns_the_next_one(service: str, root: Path) -> None:
    async def wait(client: InferenceClient) -> tuple[PolicyState, PolicyState]:
        before = await client.publish(publication(root, 8))
        unlike = (before.run_id, before.version)
        unchanged = await client.policy(unlike=unlike, wait_s=0.05)
        waiting = asyncio.create_task(client.policy(unlike=unlike, wait_s=60))
        await client.publish(publication(root, 9))
        return unchanged, await asyncio.wait_for(waiting, 20)

    unchanged, changed = ask(service, wait, key="sesame")
    assert (unchanged.version, changed.version) == (8, 9)
    initial = ask(service, lambda client: client.policy(unlike=(None, 0), wait_s=60), key="sesame")
    assert initial.version == 9


def test_what_the_service_refuses_is_a_data_error_with_its_sentence_and_field(service: str) -> None:
    with pytest.raises(DataError, match="exactly one of messages and token_ids") as caught:
        ask(service, lambda client: client.rollouts([HELLO, Prompt()], n=1, sampling=Sampling()), key="sesame")
    assert caught.value.field == "prompts.1"
    assert service in str(caught.value)


def test_a_wrong_key_is_a_data_error_that_does_not_repeat_it(service: str) -> None:
    with pytest.raises(DataError, match="refused") as caught:
        ask(service, lambda client: client.policy(), key="abracadabra")
    assert "abracadabra" not in str(caught.value)


def test_a_service_that_is_down_is_unavailable_by_its_url() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match=f"{url} cannot be reached"):
            ask(url, lambda client: client.policy(), timeout_s=1.0)
        with pytest.raises(ServiceUnavailable, match=f"{url} cannot be reached"):
            ask(url, lambda client: client.wait_ready(1.0))


def test_a_service_that_recovers_in_time_is_asked_again() -> None:
    asked: list[str] = []

    async def respond(request: Request) -> Response:
        asked.append(request.url.path)
        if len(asked) < 3:
            return Response('{"detail": "The model is still being loaded."}', 503)
        return Response(STATE.model_dump_json())

    with answering(respond) as url:
        assert ask(url, lambda client: client.policy()) == STATE
    assert asked == ["/v1/policy"] * 3


def test_a_service_that_stays_unready_is_unavailable_with_its_own_reason() -> None:
    async def respond(_: Request) -> Response:
        return Response('{"detail": "The model is still being loaded."}', 503)

    with answering(respond) as url, pytest.raises(ServiceUnavailable, match=r"cannot serve: The model is still being"):
        ask(url, lambda client: client.wait_ready(1.0))


def test_a_service_that_hangs_is_unavailable_after_the_deadline() -> None:
    async def respond(_: Request) -> Response:
        await asyncio.sleep(60)
        return Response()

    with answering(respond) as url, pytest.raises(ServiceUnavailable, match=r"within 0\.2 s"):
        ask(url, lambda client: client.policy(), timeout_s=0.2)


@pytest.mark.parametrize("body", ["<html>", "{}", '{"prompts": []}', STATE.model_dump_json()])
def test_an_answer_of_another_shape_is_unavailable(body: str) -> None:
    async def respond(_: Request) -> Response:
        return Response(body)

    with answering(respond) as url, pytest.raises(ServiceUnavailable, match=f"{url} answered"):
        ask(url, lambda client: client.rollouts([HELLO], n=1, sampling=Sampling()))


def test_scores_of_another_length_are_unavailable() -> None:
    async def respond(_: Request) -> Response:
        return Response('{"sequences": [{"logprobs": [-1.0], "version": 0}]}')

    with answering(respond) as url, pytest.raises(ServiceUnavailable, match="other scores than one for each token"):
        ask(url, lambda client: client.score([ScoreSequence(prompt_token_ids=[9], token_ids=[1, 2])]))


def test_a_failure_of_the_service_is_unavailable_without_a_retry() -> None:
    asked: list[str] = []

    async def respond(request: Request) -> Response:
        asked.append(request.url.path)
        return Response("boom", 500)

    with answering(respond) as url, pytest.raises(ServiceUnavailable, match="status 500"):
        ask(url, lambda client: client.policy())
    assert len(asked) == 1
