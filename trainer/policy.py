"""The policy network: loading, scoring response tokens, saving. No objective and no optimizer lives here.

What a forward pass gives is in `trainer/scores.py`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared import chat_template
from shared.protocol import Canary, Message
from shared.settings import LearnerSettings, ModelSettings
from trainer.head import Head, chunk_tokens
from trainer.loading import device_of, load_network, load_tokenizer
from trainer.logits import LogitShape
from trainer.lora import add_adapter, merged, switch_dropout
from trainer.policy_check import check_scores
from trainer.ranks import ALONE, Ranks
from trainer.row_layout import packed, padded, spans, taken
from trainer.scores import Scores, Sequences

_RENDERED = 1024
"""Prompts whose token ids are kept: siblings, both steps and every evaluation render the same ones."""
_CANARY_TOKENS = 32


class Policy:
    """A causal language model with its tokenizer, and an adapter where the settings want one.

    Each of several ranks has all of it and shares the work; `ShardedPolicy` divides the weights too.

    Raises DataError where the model cannot be loaded or its log-probs would not be its own, SettingsError where it does
    not fit into memory.
    """

    packs: bool = False
    """Whether rows share one line without padding, which only flash attention computes without waste."""

    def __init__(
        self,
        path: str | Path,
        model: ModelSettings,
        learner: LearnerSettings,
        *,
        temperature: float,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.device = device_of(model)
        self.network = load_network(path, model, self.device)
        self.tokenizer: Any = load_tokenizer(path, self.network)
        self.lora = model.lora
        if self.lora is not None:
            add_adapter(self.network, self.lora)
        self.trained = [name for name, p in self.network.named_parameters() if p.requires_grad]
        self._template = chat_template.with_fixed_date(self.tokenizer.get_chat_template())
        self._render = lru_cache(_RENDERED)(self._render_anew)
        self.logit_shape = LogitShape.of(self._text_config)
        self.packs = self._text_config._attn_implementation == "flash_attention_2"
        self.autocast = model.dtype == "bfloat16"
        self.recomputes = model.gradient_checkpointing
        self.temperature = temperature
        self.microbatch_tokens = learner.microbatch_tokens
        self.chunk_tokens = learner.chunk_tokens
        check_scores(self)

    @property
    def max_context(self) -> int:
        """Prompt and response tokens the network has positions for."""
        return int(self._text_config.max_position_embeddings)

    @property
    def _text_config(self) -> Any:
        network: Any = self.network
        return network.config.get_text_config()

    def twin(self, *, trainable: bool = False) -> Policy:
        """A copy with trained weights of its own, frozen unless `trainable`; all else is shared.

        With an adapter the base is in memory once, and a twin costs as much as its adapter.
        """
        trained = {id(parameter) for parameter in self.parameters()}
        shared: dict[int, Any] = {id(p): p for p in self.network.parameters() if id(p) not in trained}
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network, shared)
        for parameter in other.parameters():
            parameter.requires_grad_(trainable)
        return other

    def parameters(self) -> list[nn.Parameter]:
        """What training changes, the adapter's where there is one; in the same order in every twin."""
        named = dict(self.network.named_parameters())
        return [named[name] for name in self.trained]

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights by name: all that a checkpoint needs beside the initial model."""
        state = self.network.state_dict()
        return state if self.lora is None else {name: state[name] for name in self.trained}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take weights that `state_dict` gave. Raises RuntimeError unless their names and shapes are the same."""
        rest = (
            {} if self.lora is None else {k: v for k, v in self.network.state_dict().items() if k not in self.trained}
        )
        self.network.load_state_dict({**rest, **state})

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Chat messages -> prompt token ids with the generation prompt, thinking off."""
        return list(self._render(tuple((m.role, m.content) for m in messages)))

    def _render_anew(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            chat_template=self._template,
            tokenize=True,
            return_dict=False,
            **chat_template.ARGUMENTS,
        )
        return tuple(ids)

    def score(self, sequences: Sequences) -> Scores:
        """One forward pass; gradients flow if they are enabled and the weights are trainable.

        Rows that are the same (siblings with one answer) go through the network once.
        """
        pairs = [(tuple(p), tuple(r)) for p, r in zip(sequences.prompts, sequences.responses, strict=True)]
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        rows = [prompt + response for prompt, response in place]
        layout = packed(rows) if self.packs else padded(rows)
        positions: list[int] = []
        row: list[int] = []
        for i, (prompt, response) in enumerate(pairs):
            first = layout.starts[place[prompt, response]] + len(prompt) - 1
            positions += range(first, first + len(response))
            row += [i] * len(response)
        if self.lora is not None and self.lora.dropout > 0:
            switch_dropout(self.network, torch.is_grad_enabled())
        network: Any = self.network
        inputs = layout.to(self.device)
        with self.compute_type():
            hidden = network.base_model(**inputs, use_cache=False).last_hidden_state
        flat = torch.tensor(positions, device=self.device)
        return Scores(
            head=Head(
                network.get_output_embeddings(), self.temperature, bfloat16=self.autocast, shape=self.logit_shape
            ),
            hidden=hidden.reshape(-1, hidden.shape[-1])[flat],
            ids=inputs["input_ids"].reshape(-1)[flat + 1],
            row=torch.tensor(row, device=self.device),
            rows=len(sequences),
            chunk=chunk_tokens(self._text_config.vocab_size, self.chunk_tokens, len(positions), self.device),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type that the engine computes in: in it the weights are published."""
        return torch.bfloat16 if self.autocast else torch.float32

    def compute_type(self) -> torch.autocast:
        """The context that a forward pass runs in: bfloat16 over float32 weights, or plain float32."""
        # Recomputed activations need no weights kept for them: the cache would be a copy of all, on every rank.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=not self.recomputes
        )

    @torch.no_grad()
    def response_logprobs(self, sequences: Sequences) -> Tensor:
        """Sum of log pi over each response, without gradients, float32 [rows]. Each rank scores its share."""
        logprobs = torch.zeros(len(sequences), device=self.device)
        for part in self.ranks.rounds(self, sequences):
            scores = self.score(taken(sequences, part.mine))
            if part.counts:
                logprobs[part.mine] = scores.per_row(scores.logprobs())
        return self.ranks.sum(logprobs)

    def sum_gradients(self) -> None:
        """Over the ranks, once each has those of its rows; the same parameters have one on all of them."""
        self.ranks.sum_each([p.grad for p in self.parameters() if p.grad is not None])

    @torch.no_grad()
    def canary(self) -> Canary | None:
        """A fixed sequence with this policy's log-probs of it at temperature 1; None where they are not finite.

        The tokens are drawn from the vocabulary once and for all: they do not depend on the weights.
        """
        ids = _canary_ids(len(self.tokenizer), min(_CANARY_TOKENS, self.max_context))
        unheated = copy.copy(self)
        unheated.temperature = 1.0
        logprobs = unheated.score(Sequences([ids[:1]], [ids[1:]])).logprobs().tolist()
        return Canary(token_ids=ids, logprobs=logprobs) if all(map(math.isfinite, logprobs)) else None

    def spans(self, *aligned: Sequences) -> Iterator[slice]:
        """Slices of rows, in order, such that each of the aligned sequences fits in `microbatch_tokens`. Rows in the
        order of `by_length` waste least on padding."""
        return spans(aligned, self.microbatch_tokens, packs=self.packs)

    def save(self, directory: Path, *, tokenizer: bool = False, dtype: torch.dtype = torch.float32) -> str | None:
        """Write the weights (safetensors of `dtype`, an adapter merged in) and configuration in Hugging Face format.
        The SHA-256 of the weights, where it is known from writing them."""
        network: Any = self.network
        as_they_are = self.lora is None and dtype == torch.float32
        network.save_pretrained(directory, state_dict=None if as_they_are else merged(self.network, dtype))
        network.config.dtype = str(dtype).removeprefix("torch.")
        network.config.save_pretrained(directory)
        if tokenizer:
            self.tokenizer.save_pretrained(directory)
        return None


def _canary_ids(tokens: int, length: int) -> list[int]:
    draw = random.Random("canary")
    return [draw.randrange(tokens) for _ in range(length)]
