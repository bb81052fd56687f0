"""What vLLM's CPU backend lacks: heads of any size, and seeds where a prompt is taken in several parts.

Heads: there are kernels for some sizes only, and a model with others kills the engine at its first request. Queries,
keys and values are padded with zeros up to the next size that has a kernel. That changes no product of a query and a
key, the scale is the model's own, and what the values gain is cut off the output: the result is the same, for somewhat
more memory and time.

Rotary embeddings: the kernel stores 16 bytes at a time at aligned addresses, and ends the process where half a head is
no multiple of that. Such heads are rotated by vLLM's own plain code.

AMX: on CPUs that have it, the attention kernel for bfloat16 ends the process at the first request (seen with padded
heads). The kernel for plain vectors is taken instead.

Seeds: while a prompt is not taken in whole, vLLM samples a token after its part, throws it away, and winds the
request's generator back. Only generators of a GPU can do that; on a CPU the engine dies. Here such a request does not
draw from its generator in the first place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad


def mend() -> None:
    """Change vLLM's classes, where it computes on a CPU. Call before the model is built."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _allow_any_head_size()
        _avoid_amx()
        _allow_rotations_of_any_size()
        _allow_seeds_of_partial_prompts()


def _allow_any_head_size() -> None:
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = sorted(CPUAttentionBackend.get_supported_head_sizes())
    plain_init, plain_forward = Attention.__init__, Attention.forward

    def init(self: Any, num_heads: int, head_size: int, *arguments: Any, **named: Any) -> None:
        padded = next((size for size in sizes if size >= head_size), head_size)
        plain_init(self, num_heads, padded, *arguments, **named)
        self.padding = padded - head_size

    def forward(self: Any, query: Any, key: Any, value: Any, *arguments: Any, **named: Any) -> Any:
        if self.padding == 0:
            return plain_forward(self, query, key, value, *arguments, **named)
        query = _padded(query, self.num_heads, self.padding)
        key, value = (_padded(tensor, self.num_kv_heads, self.padding) for tensor in (key, value))
        output = plain_forward(self, query, key, value, *arguments, **named)
        return output.view(-1, self.num_heads, self.head_size)[..., : -self.padding].flatten(1)

    Attention.__init__, Attention.forward = init, forward


def _avoid_amx() -> None:
    from vllm.v1.attention.backends import cpu_attn

    plain_isa = cpu_attn._get_attn_isa

    def isa(*arguments: Any, **named: Any) -> Any:
        found = plain_isa(*arguments, **named)
        return "vec" if found == "amx" else found

    cpu_attn._get_attn_isa = isa


def _allow_rotations_of_any_size() -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    plain_forward_cpu = RotaryEmbedding.forward_cpu

    def forward_cpu(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
        aligned = self.rotary_dim // 2 * query.element_size() % 16 == 0
        forward = plain_forward_cpu if aligned else RotaryEmbedding.forward_native
        return forward(self, positions, query, key)

    RotaryEmbedding.forward_cpu = forward_cpu


def _allow_seeds_of_partial_prompts() -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    plain_sample_tokens = CPUModelRunner.sample_tokens

    def sample_tokens(self: Any, *arguments: Any, **named: Any) -> Any:
        generators = self.input_batch.generators
        partial = [row for row in generators if self.discard_request_mask.np[row]]
        held = {row: generators.pop(row) for row in partial}
        try:
            return plain_sample_tokens(self, *arguments, **named)
        finally:
            generators.update(held)

    CPUModelRunner.sample_tokens = sample_tokens


def _padded(tensor: torch.Tensor | None, heads: int, padding: int) -> torch.Tensor | None:
    """[tokens, heads * size] -> [tokens, heads * (size + padding)]; None (the keys are another layer's) stays."""
    return None if tensor is None else pad(tensor.unflatten(-1, (heads, -1)), (0, padding)).flatten(-2)
