"""The OpenAI-compatible routes, asked with OpenAI's own client."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.services.inference.inference_support import HELLO, sample


@pytest.fixture(scope="module")
def client(service: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0)


def test_the_policy_is_listed_by_its_name(client: openai.OpenAI) -> None:
    assert "policy" in [model.id for model in client.models.list()]
    assert client.models.retrieve("policy").id == "policy"


def test_a_chat_completion_is_what_the_same_seed_gives_natively(client: openai.OpenAI, service: httpx.Client) -> None:
    made = client.chat.completions.create(
        model="policy", messages=HELLO["messages"], n=3, seed=4, max_tokens=12, logprobs=True, temperature=0.7
    )
    [native] = sample(service, HELLO, n=3, seed=4, temperature=0.7)
    assert [choice.message.content for choice in made.choices] == [r["text"] for r in native["rollouts"]]
    assert [choice.finish_reason for choice in made.choices] == [r["finish_reason"] for r in native["rollouts"]]
    for choice, rollout in zip(made.choices, native["rollouts"], strict=True):
        assert choice.logprobs is not None
        assert [token.logprob for token in choice.logprobs.content or []] == rollout["logprobs"]
    assert made.usage is not None
    assert made.usage.completion_tokens == sum(len(r["token_ids"]) for r in native["rollouts"])
    assert made.usage.prompt_tokens == len(native["prompt_token_ids"])


def test_without_max_tokens_a_chat_may_fill_the_context(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="policy", messages=HELLO["messages"], seed=1)
    assert made.usage is not None
    assert made.usage.total_tokens == 128 or made.choices[0].finish_reason == "stop"


def test_a_text_completion_takes_texts_and_token_ids(client: openai.OpenAI) -> None:
    texts = client.completions.create(model="policy", prompt=["ab", "cd"], n=2, seed=1, max_tokens=5, logprobs=0)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    ids = client.completions.create(model="policy", prompt=[9, 70, 71], seed=1, max_tokens=5)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3
    shown = texts.choices[0].logprobs
    assert shown is not None
    assert len(shown.tokens or []) == len(shown.token_logprobs or []) == len(shown.text_offset or []) <= 5


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "policy", "prompt": "ab", "seed": 4, "max_tokens": 30, "logprobs": 0}
    whole = client.completions.create(**asked).choices[0]
    letter = next(c for c in whole.text[5:] if c.isascii())
    cut = client.completions.create(**asked, stop=["never in it", letter]).choices[0]
    assert cut.text == whole.text[: whole.text.index(letter)]
    assert cut.finish_reason == "stop"
    assert cut.logprobs is not None
    assert whole.logprobs is not None
    assert len(cut.logprobs.tokens or []) < len(whole.logprobs.tokens or [])


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-x", messages=HELLO["messages"])
    assert "the policy is called 'policy'" in str(caught.value.body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 5),
        ("tools", []),
        ("presence_penalty", 0.5),
        ("top_logprobs", 5),
        ("response_format", {"type": "json_object"}),
        ("max_tokens", 200),
        ("clamp_max_tokens", "perhaps"),
        ("n", 0),
        ("stop", ["", "a"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(service: httpx.Client, field: str, value: Any) -> None:
    body = {"model": "policy", **HELLO, field: value}
    response = service.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert response.json()["field"].startswith(field)


def test_neutral_values_and_labels_are_accepted(service: httpx.Client) -> None:
    body = {"model": "policy", **HELLO, "max_completion_tokens": 3, "user": "me", "presence_penalty": 0, "store": False}
    assert service.post("/v1/chat/completions", json=body).status_code == 200


def test_max_tokens_past_the_context_is_cut_when_the_request_says_so(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.chat.completions.create(
            model="policy", messages=HELLO["messages"], max_tokens=5000, extra_body={"clamp_max_tokens": True}
        ),
        lambda: client.completions.create(
            model="policy", prompt=[9] * 100, max_tokens=5000, extra_body={"clamp_max_tokens": True}
        ),
    ):
        made = ask()
        assert made.usage is not None
        assert made.usage.total_tokens == 128 or made.choices[0].finish_reason == "stop"
