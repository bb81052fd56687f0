"""Log-probs and gradients of several architectures, padded and packed, against the model's own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_architectures import ARCHITECTURES, make_small_model
from torch import Tensor

from shared.errors import DataError
from shared.settings import LearnerSettings, ModelSettings
from trainer.logits import LogitShape
from trainer.policy import Policy
from trainer.policy_check import check_scores
from trainer.scores import Sequences

ROWS = Sequences(
    [[3, 40, 50, 4], [3, 4], [3, 60, 61, 62, 63, 64, 65, 4], [3, 4]],
    [[100, 101], [102, 103, 104, 105, 106, 1], [107], [102, 103, 104, 105, 106, 1]],
)
SIGNS = torch.tensor([1.0, -2.0, 0.5, 1.5])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_model(tmp_path_factory.mktemp("model"), request.param)


def policy_of(directory: Path, *, temperature: float = 1.0, **model: Any) -> Policy:
    return Policy(directory, ModelSettings(device="cpu", **model), LearnerSettings(), temperature=temperature)


def plain(policy: Policy) -> Tensor:
    """Sum of log pi over each response of ROWS, from the model's own logits, row by row."""
    network: Any = policy.network
    sums = []
    for prompt, response in zip(ROWS.prompts, ROWS.responses, strict=True):
        logits = network(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / policy.temperature
        sums.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(sums)


def scored(policy: Policy) -> Tensor:
    scores = policy.score(ROWS)
    return scores.per_row(scores.logprobs())


def gradients(policy: Policy, values: Tensor) -> dict[str, Tensor]:
    policy.network.zero_grad()
    (values * SIGNS).sum().backward()
    return {name: p.grad.clone() for name, p in policy.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packs", [False, True])
def test_values_and_gradients_are_those_of_the_models_own_logits_row_by_row(directory: Path, packs: bool) -> None:
    policy = policy_of(directory, temperature=0.7)
    policy.packs = packs
    expected, found = plain(policy), scored(policy)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradients(policy, found), gradients(policy, expected), rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_changes_no_bit(directory: Path) -> None:
    keeps, again = policy_of(directory), policy_of(directory, gradient_checkpointing=True)
    forwards: list[int] = []
    network: Any = again.network
    network.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
    values = [scored(policy) for policy in (keeps, again)]
    assert torch.equal(values[0], values[1])
    kept, recomputed = gradients(keeps, values[0]), gradients(again, values[1])
    assert kept.keys() == recomputed.keys()
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)
    assert len(forwards) == 2, "the layer was not computed again in the backward pass"


def test_a_saved_model_of_any_architecture_is_the_same_model(directory: Path, tmp_path: Path) -> None:
    policy = policy_of(directory)
    policy.save(tmp_path, tokenizer=True)
    assert torch.equal(policy_of(tmp_path).response_logprobs(ROWS), policy.response_logprobs(ROWS))


def test_torchs_attention_is_refused_where_it_cannot_cap_attention_scores(tmp_path: Path) -> None:
    directory = make_small_model(tmp_path, "Gemma2")
    with pytest.raises(DataError, match=r"model\.path.*sdpa|attention"):
        policy_of(directory, attention="sdpa")


@pytest.mark.parametrize("architecture", ["Gemma2", "Cohere", "Granite"])
def test_a_model_that_does_more_after_its_head_than_is_known_is_refused(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_small_model(tmp_path, architecture)
    monkeypatch.setattr(LogitShape, "of", lambda config: LogitShape())
    with pytest.raises(DataError, match=f"{architecture}ForCausalLM cannot be trained here") as caught:
        policy_of(directory)
    assert caught.value.field == "model.path" and "\n" not in str(caught.value)


def test_a_model_whose_weights_are_not_finite_is_refused(tmp_path: Path) -> None:
    directory = make_small_model(tmp_path, "Llama")
    policy = policy_of(directory)
    with torch.no_grad():
        next(iter(policy.network.parameters())).fill_(float("nan"))
    policy.save(directory)
    with pytest.raises(DataError, match="not finite"):
        policy_of(directory)


def test_packed_rows_that_saw_each_other_would_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that overlooks where rows begin, as a kernel may that is not told."""
    policy = policy_of(make_small_model(tmp_path, "Llama"))
    policy.packs = True
    check_scores(policy)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(DataError, match=r"model\.attention=eager"):
        check_scores(policy)
