"""A policy whose weights are divided over ranks with FSDP2: each rank keeps a part of every tensor.

Each layer is gathered for its forward and backward pass alone. What is not in a layer (embeddings, the last norm, the
output head) is one group, gathered by the forward pass and let go after the backward pass, because the head is used on
its own in between, as often as there are chunks. Every rank must make the same passes in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from shared.errors import SettingsError
from shared.protocol import Canary
from shared.settings import LearnerSettings, ModelSettings
from trainer import tensor_file
from trainer.policy import Policy
from trainer.ranks import Ranks

WEIGHTS = "model.safetensors"


class ShardedPolicy(Policy):
    """A policy of several ranks; each method is called on all of them, rank 0 first."""

    def __init__(
        self, path: str | Path, model: ModelSettings, learner: LearnerSettings, *, temperature: float, ranks: Ranks
    ) -> None:
        # In the host's memory first: whole, it may not fit a GPU that has room for its share.
        on_cpu = model.model_copy(update={"device": "cpu"})
        super().__init__(path, on_cpu, learner, temperature=temperature, ranks=ranks)
        assert ranks.device is not None
        self._load = (path, model, learner)
        self.device = ranks.device
        if getattr(self.network, "_weight_conversions", None):
            raise SettingsError(
                f"learner.ranks={ranks.size}: the files of {type(self.network).__name__} have other tensors than the "
                "network, and cannot be written from divided weights; set learner.ranks=1."
            )
        _shard(self.network, ranks)

    def twin(self, *, trainable: bool = False) -> ShardedPolicy:
        """As of any policy; loaded once more, since a sharded network cannot be copied as a whole."""
        path, model, learner = self._load
        other = ShardedPolicy(path, model, learner, temperature=self.temperature, ranks=self.ranks)
        other.network.requires_grad_(trainable)
        with torch.no_grad():
            for new, own in zip(other.parameters(), self.parameters(), strict=True):
                new.copy_(own)
        return other

    def parameters(self) -> list[nn.Parameter]:
        """This rank's parts of the weights, as DTensors."""
        backbone: FSDPModule = self.network.base_model  # type: ignore[assignment]
        # After a forward pass without a backward pass the network still holds gathered copies in their place, which
        # would be neither changed nor gathered anew.
        backbone.reshard()
        return super().parameters()

    def sum_gradients(self) -> None:
        """FSDP2 has done so in the backward passes."""

    def canary(self) -> Canary | None:
        """As of any policy; all ranks compute it together."""
        self.ranks.order("canary")
        return super().canary()

    def save(self, directory: Path, *, tokenizer: bool = False, dtype: torch.dtype = torch.float32) -> str:
        """As of any policy; rank 0 writes, and no rank holds more than one tensor whole. The SHA-256 of the weights."""
        self.ranks.order("save", directory, tokenizer, dtype)
        named = dict(zip(self.trained, self.parameters(), strict=True))
        header, names = tensor_file.layout({name: (tensor.shape, dtype) for name, tensor in named.items()})
        tensors = (whole(named[name]).to(dtype) for name in names)
        if not self.ranks.leads:
            for _ in tensors:
                pass
            return ""
        network: Any = self.network
        network.config.architectures = [type(network).__name__]
        network.config.dtype = str(dtype).removeprefix("torch.")
        network.config.save_pretrained(directory)
        network.generation_config.save_pretrained(directory)
        if tokenizer:
            self.tokenizer.save_pretrained(directory)
        return tensor_file.write(directory / WEIGHTS, header, tensors)


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, without gradients. Every rank must ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided(state: Any, ranks: Ranks) -> Any:
    """Nested state with whole weights and moments (its floating tensors that have a dimension) as this rank's parts."""
    if isinstance(state, dict):
        return {key: divided(value, ranks) for key, value in state.items()}
    if isinstance(state, Tensor) and state.is_floating_point() and state.ndim and not isinstance(state, DTensor):
        return distribute_tensor(state.to(ranks.device), ranks.mesh, [Shard(0)], src_data_rank=None)
    return state


def _shard(network: nn.Module, ranks: Ranks) -> None:
    found: Any = network
    backbone: Any = found.base_model
    # The head in the backbone's group, and tied embeddings in one group with it, though it is the backbone's sibling.
    backbone.add_module("head_beside", found.get_output_embeddings())
    layers = [m for m in backbone.modules() if type(m).__name__ in (found._no_split_modules or ())]
    for layer in layers:
        fully_shard(layer, mesh=ranks.mesh)
    fully_shard(backbone, mesh=ranks.mesh, reshard_after_forward=False)
    del backbone.head_beside
    for module in _sharded(network):
        # Gradients are sums over all rows, not means over the ranks; gloo has neither another sum nor a mean.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _sharded(network: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in network.modules() if isinstance(module, FSDPModule))
