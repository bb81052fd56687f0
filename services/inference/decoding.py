"""Sampling from a causal language model, batched: the token loop and nothing else.

The loop is our own, not `generate()`: that keeps the scores of every step ([rows, vocabulary] a token) or gives no
log-probs, runs prompts that stand there several times through the model several times, computes finished rows to
the end, and draws from the global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from services.inference.engine import FinishReason
from shared.protocol import Sampling

OnToken = Callable[[int, int, float, FinishReason | None], None]


@dataclass
class Response:
    """The response to one prompt: `token_ids` with the end token if there was one, a log-prob for each."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


class Cancelled(Exception):
    """The caller gave the batch up."""


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: Tensor,
    pad_id: int,
    generator: torch.Generator,
    cancelled: Callable[[], bool] = lambda: False,
    on_token: OnToken | None = None,
) -> list[Response]:
    """Sample a response to each prompt (token ids, none empty); raises Cancelled when `cancelled()` turns true.

    `on_token` hears of each token as it is drawn: the prompt's index, the token, its log-prob and, with the last one,
    why it is the last.
    """
    results = [Response() for _ in prompts]
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    place = {prompt: index for index, prompt in enumerate(distinct)}
    batch = _prefill(model, distinct, pad_id).select([place[tuple(prompt)] for prompt in prompts])
    rows = list(range(len(prompts)))
    for step in range(sampling.max_tokens):
        if cancelled():
            raise Cancelled
        tokens, logprobs = draw(batch.logits, sampling, generator)
        ended = torch.isin(tokens, stop_ids).tolist()
        for row, token, logprob, end in zip(rows, tokens.tolist(), logprobs.tolist(), ended, strict=True):
            if not results[row].stopped:
                results[row].token_ids.append(token)
                results[row].logprobs.append(logprob)
                results[row].stopped = end
                if on_token is not None:
                    last = step + 1 == sampling.max_tokens
                    on_token(row, token, logprob, "stop" if end else "length" if last else None)
        live = [index for index, row in enumerate(rows) if not results[row].stopped]
        if not live or step + 1 == sampling.max_tokens:
            break
        # Dropping rows copies the cache: worth it once it halves the work.
        if len(live) <= len(rows) // 2:
            rows, tokens, batch = [rows[index] for index in live], tokens[live], batch.select(live)
        batch.advance(model, tokens)
    return results


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [rows] and their log-probs [rows] under the sampling distribution of `logits` [rows, vocabulary].

    Temperature 0 takes the likeliest token, with log-prob 0: it is certain.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)
    # Relative to the likeliest, or a temperature near 0 would divide into infinities on both sides.
    heights = logits.float() - logits.float().amax(-1, keepdim=True)
    logprobs = torch.log_softmax(heights / sampling.temperature, -1)
    if sampling.top_p < 1:
        logprobs = _nucleus(logprobs, sampling.top_p)
    tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens whose probabilities reach `top_p`, renormalised; [rows, vocabulary]."""
    ordered, index = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, index, before >= top_p)
    # Rounding may put even the first token outside when top_p is tiny.
    outside.scatter_(-1, index[:, :1], False)
    return torch.log_softmax(logprobs.masked_fill(outside, float("-inf")), -1)


@dataclass
class _Batch:
    """Where the rows stand: next-token `logits` [rows, vocabulary], `mask` [rows, tokens], keys and values."""

    logits: Tensor
    mask: Tensor
    cache: DynamicCache

    def select(self, rows: Sequence[int]) -> _Batch:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        return _Batch(self.logits[index], self.mask[index], self.cache)

    def advance(self, model: Any, tokens: Tensor) -> None:
        """Append one token to each row."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        positions = self.mask.sum(-1, keepdim=True) - 1
        self.logits = _forward(model, tokens[:, None], self.mask, positions, self.cache)


def _prefill(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> _Batch:
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    return _Batch(_forward(model, ids, mask, positions, cache), mask, cache)


def _forward(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
