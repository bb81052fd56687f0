"""Adapters: the initial model at first, the merged model always, the chain rule, and what twins share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_architectures import make_small_model
from trainer_algorithms import tools
from transformers import AutoModelForCausalLM

from services.inference.checkpoint import Reference, check_adapter, check_weights
from shared.errors import DataError
from shared.settings import LearnerSettings, LoRASettings, ModelSettings
from trainer.lora import merged, save_adapter
from trainer.policy import Policy
from trainer.publisher import Files
from trainer.scores import Sequences

NewLoRA = Callable[..., Policy]
ROWS = Sequences([[3, 40, 50, 4], [3, 4], [3, 60, 4]], [[100, 101], [102, 103, 104, 105, 1], [107]])
SIGNS = torch.tensor([1.0, -2.0, 0.5])


@pytest.fixture
def new_lora(tiny_model_directory: Path) -> NewLoRA:
    """Make a policy with an adapter: new_lora(rank=4, moved=True, dtype="float32", ...)."""

    def make(*, moved: bool = True, dtype: Any = "float32", directory: Path | None = None, **lora: Any) -> Policy:
        torch.manual_seed(0)
        model = ModelSettings(device="cpu", dtype=dtype, lora=LoRASettings(**{"rank": 4, "alpha": 8.0} | lora))
        policy = Policy(directory or tiny_model_directory, model, LearnerSettings(), temperature=1.0)
        if moved:
            move(policy)
        return policy

    return make


def move(policy: Policy) -> None:
    """As training does: away from the zeros of B."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def scored(policy: Policy) -> torch.Tensor:
    scores = policy.score(ROWS)
    return scores.per_row(scores.logprobs())


def backward(policy: Policy) -> None:
    (scored(policy) * SIGNS).sum().backward()


def plain(directory: Path) -> Policy:
    return Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)


def test_an_adapter_starts_as_the_initial_model_to_the_last_bit(new_lora: NewLoRA, tiny_model_directory: Path) -> None:
    assert torch.equal(
        new_lora(moved=False).response_logprobs(ROWS), plain(tiny_model_directory).response_logprobs(ROWS)
    )


@pytest.mark.parametrize("architecture", ["Qwen3", "Llama", "Gemma2"])
def test_the_merged_model_computes_what_the_adapter_does(new_lora: NewLoRA, tmp_path: Path, architecture: str) -> None:
    policy = new_lora(directory=make_small_model(tmp_path / "base", architecture))
    policy.save(tmp_path / "merged", tokenizer=True)
    again = plain(tmp_path / "merged")
    torch.testing.assert_close(again.response_logprobs(ROWS), policy.response_logprobs(ROWS), rtol=1e-5, atol=2e-4)
    initial = plain(tmp_path / "base").response_logprobs(ROWS)
    assert (initial - again.response_logprobs(ROWS)).abs().max() > 0.1
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "merged/model.safetensors").values())


def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule(new_lora: NewLoRA, tmp_path: Path) -> None:
    """With W' = W + s B A and G = dL/dW': dL/dB = s G A^T and dL/dA = s B^T G."""
    policy = new_lora(rank=4, alpha=8.0)
    policy.save(tmp_path, tokenizer=True)
    whole = plain(tmp_path)
    backward(policy)
    backward(whole)
    scale, compared = 8.0 / 4, 0
    merged_gradients = {name: p.grad for name, p in whole.network.named_parameters() if p.grad is not None}
    found = dict(policy.network.named_parameters())
    for name, a in found.items():
        if ".lora_A." not in name:
            continue
        b, g = found[name.replace("lora_A", "lora_B")], merged_gradients[name.split(".lora_A.")[0] + ".weight"]
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, scale * b.detach().T @ g, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b.grad, scale * g @ a.detach().T, rtol=1e-3, atol=1e-4)
        compared += 1
    assert compared == 14, "two layers with seven linear maps each"


def test_only_the_adapter_is_trained_and_only_it_has_moments(new_lora: NewLoRA) -> None:
    policy = new_lora()
    base = {name: p.clone() for name, p in policy.network.named_parameters() if not p.requires_grad}
    before = [p.clone() for p in policy.parameters()]
    optimizer = tools(policy).optimizer
    with optimizer.gradient_step(0, {}, "m_step"):
        backward(policy)
    assert len(optimizer.adamw.state) == len(optimizer.adamw.param_groups[0]["params"]) == 28
    assert all(torch.equal(dict(policy.network.named_parameters())[name], p) for name, p in base.items())
    assert not any(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_twins_share_the_base_and_have_adapters_of_their_own(new_lora: NewLoRA) -> None:
    policy = new_lora(moved=False)
    twin, trainable = policy.twin(), policy.twin(trainable=True)
    initial = twin.response_logprobs(ROWS)
    move(policy)
    assert torch.equal(twin.response_logprobs(ROWS), initial)
    assert not torch.equal(policy.response_logprobs(ROWS), initial)
    own = {p.data_ptr() for p in twin.parameters()}
    assert {p.data_ptr() for p in twin.network.parameters()} - own <= {
        p.data_ptr() for p in policy.network.parameters()
    }
    assert not own & {p.data_ptr() for p in policy.network.parameters()}
    assert not any(p.requires_grad for p in twin.network.parameters())
    assert [n for n, p in trainable.network.named_parameters() if p.requires_grad] == policy.trained


def test_the_state_is_the_adapter_alone_and_brings_a_policy_back(new_lora: NewLoRA) -> None:
    policy, other = new_lora(), new_lora(moved=False)
    state = policy.state_dict()
    assert state.keys() == set(policy.trained) and all(".lora_" in name for name in state)
    other.load_state_dict(state)
    assert torch.equal(other.response_logprobs(ROWS), policy.response_logprobs(ROWS))


@pytest.mark.parametrize("spoil", [lambda s: s.popitem(), lambda s: s.update(other=torch.zeros(1))])
def test_a_state_of_other_names_is_refused(new_lora: NewLoRA, spoil: Callable[[dict[str, Any]], Any]) -> None:
    policy = new_lora()
    state = policy.state_dict()
    spoil(state)
    with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
        policy.load_state_dict(state)


def test_the_base_is_kept_in_the_type_of_computation_and_the_adapter_in_float32(new_lora: NewLoRA) -> None:
    policy = new_lora(dtype="bfloat16")
    types = {name: p.dtype for name, p in policy.network.named_parameters()}
    assert {types[name] for name in policy.trained} == {torch.float32}
    assert {dtype for name, dtype in types.items() if name not in policy.trained} == {torch.bfloat16}
    backward(policy)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in policy.parameters())
    torch.testing.assert_close(policy.response_logprobs(ROWS), new_lora().response_logprobs(ROWS), rtol=0.05, atol=0.5)


def test_merged_bfloat16_weights_keep_what_the_adapter_adds(new_lora: NewLoRA, tmp_path: Path) -> None:
    """Rounded to bfloat16, a small step of the adapter would be gone."""
    policy = new_lora(dtype="bfloat16")
    name = "model.layers.0.self_attn.q_proj"
    layer: Any = policy.network.get_submodule(name)
    expected = layer.base_layer.weight.float() + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = merged(policy.network)[f"{name}.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)
    policy.save(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors"), "a tied head is stored once"


def test_dropout_is_on_only_where_gradients_flow(new_lora: NewLoRA) -> None:
    policy, without = new_lora(dropout=0.5), new_lora()
    assert torch.equal(policy.response_logprobs(ROWS), without.response_logprobs(ROWS))
    assert not torch.allclose(scored(policy).detach(), policy.response_logprobs(ROWS))
    assert policy.canary() == without.canary()


def test_gradient_checkpointing_changes_no_bit_of_an_adapters_gradient(tiny_model_directory: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = ModelSettings(device="cpu", gradient_checkpointing=checkpointing, lora=LoRASettings(dropout=0.3))
        policy = Policy(tiny_model_directory, model, LearnerSettings(), temperature=1.0)
        move(policy)
        torch.manual_seed(1)
        backward(policy)
        gradients.append([p.grad for p in policy.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# ----------------------------------------------------------------------------------------------------------- targets


def test_targets_name_the_layers_that_have_an_adapter(new_lora: NewLoRA) -> None:
    policy = new_lora(targets=["q_proj", "v_proj"])
    assert {name.split(".")[-4] for name in policy.trained} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["q_porj"], "names q_porj, and the model has no such linear layers: choose from down_proj"),
        (["q_proj", "lm_head"], "names lm_head, which takes no adapter"),
        (["embed_tokens"], "names embed_tokens, which takes no adapter"),
        ([], "names nothing"),
    ],
)
def test_targets_that_cannot_have_one_are_refused(new_lora: NewLoRA, targets: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        new_lora(targets=targets)
    assert caught.value.field == "model.lora.targets" and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- publishing


def delivered(policy: Policy, directory: Path) -> dict[str, Any]:
    """The fields of the publication of version 1 below `directory`."""
    fields: dict[str, Any] = {}

    async def announce(announced: dict[str, Any]) -> None:
        fields.update(announced)

    asyncio.run(Files(directory).deliver(policy, 1, announce))
    return fields


def test_published_merged_the_weights_pass_the_services_check_and_its_canary(
    new_lora: NewLoRA, tiny_model_directory: Path, tmp_path: Path
) -> None:
    policy = new_lora()
    fields = delivered(policy, tmp_path)
    assert fields.keys() == {"path", "sha256"}
    check_weights(Path(fields["path"]), Reference.of(tiny_model_directory), fields["sha256"])
    served = AutoModelForCausalLM.from_pretrained(fields["path"])
    assert_canary(policy, served)


def test_published_alone_the_adapter_passes_the_services_check_and_its_canary(
    new_lora: NewLoRA, tiny_model_directory: Path, tmp_path: Path
) -> None:
    policy = new_lora(publish="adapter")
    fields = delivered(policy, tmp_path)
    assert fields["adapter"] is True and not (Path(fields["path"]) / "model.safetensors").exists()
    check_adapter(Path(fields["path"]), fields["sha256"], rank=4)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_directory)
    assert_canary(policy, PeftModel.from_pretrained(base, fields["path"]))


def assert_canary(policy: Policy, served: Any) -> None:
    """Whoever serves the published weights gives the policy's log-probs on its canary."""
    canary = policy.canary()
    assert canary is not None
    with torch.no_grad():
        logprobs = torch.log_softmax(served(torch.tensor([canary.token_ids])).logits[0, :-1], -1)
    found = logprobs.gather(1, torch.tensor(canary.token_ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(found, torch.tensor(canary.logprobs), rtol=0, atol=1e-3)


def test_the_adapters_file_is_the_same_for_the_same_weights(new_lora: NewLoRA, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_adapter(new_lora().network, tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
