"""Scores against a plain forward pass, row by row, with the whole vocabulary at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from shared.errors import DataError
from shared.protocol import Message
from shared.settings import LearnerSettings, LoRASettings, ModelSettings
from trainer.policy import Policy
from trainer.scores import Sequences

NewPolicy = Callable[..., Policy]
ROWS = Sequences(
    [[3, 40, 50, 4], [3, 4], [3, 60, 61, 62, 63, 64, 65, 4], [3, 70, 4]],
    [[100, 101], [102, 103, 104, 105, 106, 1], [107], [5, 6, 7, 8]],
)


def plain_logprobs(policy: Policy, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """log pi of each response token from one unpadded forward pass of the Hugging Face model."""
    with torch.no_grad():
        logits = policy.network(input_ids=torch.tensor([prompt + response])).logits[0].double() / temperature
    predicting = logits[len(prompt) - 1 : -1]
    return torch.log_softmax(predicting, -1)[torch.arange(len(response)), torch.tensor(response)]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probabilities_are_those_of_a_plain_forward_pass_of_each_row(
    new_policy: NewPolicy, temperature: float
) -> None:
    policy = new_policy(temperature=temperature)
    scores = policy.score(ROWS)
    got = scores.logprobs()
    expected = [plain_logprobs(policy, p, r, temperature) for p, r in zip(ROWS.prompts, ROWS.responses, strict=True)]
    torch.testing.assert_close(got.double(), torch.cat(expected), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        policy.response_logprobs(ROWS).double(), torch.stack([e.sum() for e in expected]), atol=1e-4, rtol=1e-5
    )


def test_scores_name_the_response_tokens_and_their_rows_in_order(new_policy: NewPolicy) -> None:
    scores = new_policy().score(ROWS)
    assert scores.ids.tolist() == [token for response in ROWS.responses for token in response]
    assert scores.row.tolist() == [row for row, response in enumerate(ROWS.responses) for _ in response]
    assert scores.rows == 4


def test_a_row_scores_the_same_alone_and_beside_a_much_longer_one(new_policy: NewPolicy) -> None:
    policy = new_policy()
    alone = policy.response_logprobs(ROWS[1:2])
    padded = policy.response_logprobs(Sequences([ROWS.prompts[1], [3, *([9] * 300), 4]], [ROWS.responses[1], [7] * 50]))
    torch.testing.assert_close(padded[:1], alone, atol=1e-5, rtol=1e-5)


def test_per_row_sums_the_tokens_of_each_row(new_policy: NewPolicy) -> None:
    scores = new_policy().score(ROWS)
    assert scores.per_row(torch.ones(len(scores.ids))).tolist() == [2.0, 6.0, 1.0, 4.0]


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunked_scores_and_gradients_are_those_of_all_logits_at_once(new_policy: NewPolicy, chunk: int) -> None:
    dense = new_policy()
    chunked = copy.copy(dense)
    chunked.chunk_tokens = chunk
    gradients = []
    values = []
    for policy in (dense, chunked):
        dense.network.zero_grad()
        value = policy.score(ROWS).logprobs()
        (value * torch.linspace(-1, 1, len(value))).sum().backward()
        values.append(value.detach())
        gradients.append([p.grad.clone() for p in dense.network.parameters() if p.grad is not None])
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200)), max_size=20)


@given(lengths, st.integers(64, 500))
@settings(deadline=None)
def test_micro_batches_cover_every_row_once_and_fit_unless_they_are_one_row(
    shapes: list[tuple[int, int, int]], limit: int
) -> None:
    policy = object.__new__(Policy)
    policy.microbatch_tokens = limit
    short = Sequences([[0] * p for p, _, _ in shapes], [[0] * r for _, r, _ in shapes])
    long = Sequences([[0] * p for _, _, p in shapes], [[0] * r for _, r, _ in shapes])
    spans = list(policy.spans(short, long))
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(len(shapes)))
    for span in spans:
        size = span.stop - span.start
        width = max(max(p, q) + r for p, r, q in shapes[span])
        assert size * width <= limit or size == 1


def test_a_twin_keeps_its_weights_and_takes_no_gradient(new_policy: NewPolicy) -> None:
    policy = new_policy()
    twin = policy.twin()
    before = twin.response_logprobs(ROWS)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.1)
    assert torch.equal(twin.response_logprobs(ROWS), before)
    assert not torch.equal(policy.response_logprobs(ROWS), before)
    assert not any(p.requires_grad for p in twin.network.parameters())
    assert all(p.requires_grad for p in policy.network.parameters())


def test_rendering_ends_with_the_generation_prompt_and_keeps_every_byte(new_policy: NewPolicy) -> None:
    policy = new_policy()
    ids = policy.render([Message(role="system", content="s"), Message(role="user", content="zwölf {} {{x}}")])
    assert policy.tokenizer.decode(ids) == "<|system|>s<|end|><|user|>zwölf {} {{x}}<|end|><|assistant|>"


def test_saved_weights_load_as_the_same_model(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    policy.save(tmp_path, tokenizer=True)
    again = Policy(tmp_path, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    assert torch.equal(again.response_logprobs(ROWS), policy.response_logprobs(ROWS))
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "model.safetensors").values())
    AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=2)])
def test_weights_saved_in_bfloat16_are_the_float32_ones_each_rounded_once(
    tiny_model_directory: Path, tmp_path: Path, lora: LoRASettings | None
) -> None:
    policy = Policy(tiny_model_directory, ModelSettings(device="cpu", lora=lora), LearnerSettings(), temperature=1.0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy.save(tmp_path / "exact")
    policy.save(tmp_path / "half", dtype=torch.bfloat16)
    exact, half = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "half"))
    assert half.keys() == exact.keys()
    assert all(torch.equal(half[name], exact[name].bfloat16()) for name in exact)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "exact").dtype == torch.float32


def test_bfloat16_computes_in_bfloat16_over_float32_weights(tiny_model_directory: Path, new_policy: NewPolicy) -> None:
    half = Policy(
        tiny_model_directory, ModelSettings(device="cpu", dtype="bfloat16"), LearnerSettings(), temperature=1.0
    )
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    exact, rounded = new_policy().response_logprobs(ROWS), half.response_logprobs(ROWS)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("packs", [False, True])
def test_bfloat16_gradients_are_float32_and_point_where_the_exact_ones_do(
    tiny_model_directory: Path, packs: bool
) -> None:
    gradients = []
    for dtype in ("float32", "bfloat16"):
        model = ModelSettings(device="cpu", dtype=dtype, gradient_checkpointing=True)
        policy = Policy(tiny_model_directory, model, LearnerSettings(), temperature=1.0)
        policy.packs, policy.chunk_tokens = packs, 4
        policy.score(ROWS).logprobs().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in policy.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99
    assert not torch.equal(gradients[0], gradients[1])


def test_the_context_is_the_number_of_positions(new_policy: NewPolicy) -> None:
    assert new_policy().max_context == 1024


def test_a_path_without_a_model_is_one_sentence_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.path") as caught:
        Policy(tmp_path, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    assert caught.value.field == "model.path"
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_one_sentence(tiny_model_directory: Path) -> None:
    with pytest.raises(DataError, match=r"model\.device"):
        Policy(tiny_model_directory, ModelSettings(device="cuda"), LearnerSettings(), temperature=1.0)
