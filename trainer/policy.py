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
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.errors import DataError
from shared.protocol import Canary, Message
from shared.settings import LearnerSettings, ModelSettings
from trainer.scores import Scores, Sequences, over_chunks

_RENDERED = 1024
"""Prompts whose token ids are kept: siblings, both steps and every evaluation render the same ones."""
_CANARY_TOKENS = 32


class Policy:
    """A causal language model with its tokenizer.

    Raises DataError where no model can be loaded from the path.
    """

    def __init__(self, path: str | Path, model: ModelSettings, learner: LearnerSettings, *, temperature: float) -> None:
        self.device = torch.device(_device(model.device))
        try:
            network: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise DataError(
                f"no model could be loaded from model.path '{path}': {first}. Point model.path to a Hugging Face "
                "model directory, a hub id, or builtin:renamed_library.",
                field="model.path",
            ) from error
        self._render = lru_cache(_RENDERED)(self._render_anew)
        self.network = network.to(self.device).eval()
        self.autocast = model.dtype == "bfloat16"
        self.temperature = temperature
        self.microbatch_tokens = learner.microbatch_tokens
        self.chunk_tokens = learner.chunk_tokens

    @property
    def max_context(self) -> int:
        """Prompt and response tokens the network has positions for."""
        config: Any = self.network.config
        return int(config.max_position_embeddings)

    def twin(self, *, trainable: bool = False) -> Policy:
        """A copy with weights of its own, frozen unless `trainable`, and the same tokenizer."""
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network).requires_grad_(trainable)
        return other

    def weights(self) -> list[nn.Parameter]:
        """All parameters, to be read or changed between two passes."""
        return list(self.network.parameters())

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Chat messages -> prompt token ids with the generation prompt, thinking off."""
        return list(self._render(tuple((m.role, m.content) for m in messages)))

    def _render_anew(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            enable_thinking=False,
        )
        return tuple(ids)

    def score(self, sequences: Sequences) -> Scores:
        """One forward pass; gradients flow if they are enabled and the weights are trainable.

        Rows that are the same (siblings with one answer) go through the network once.
        """
        pairs = [(tuple(p), tuple(r)) for p, r in zip(sequences.prompts, sequences.responses, strict=True)]
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        width = max(len(p) + len(r) for p, r in place)
        ids = torch.zeros(len(place), width, dtype=torch.long)
        mask = torch.zeros(len(place), width, dtype=torch.long)
        for (prompt, response), i in place.items():
            ids[i, : len(prompt) + len(response)] = torch.tensor(prompt + response)
            mask[i, : len(prompt) + len(response)] = 1
        positions: list[int] = []
        row: list[int] = []
        for i, (prompt, response) in enumerate(pairs):
            first = place[prompt, response] * width + len(prompt) - 1
            positions += range(first, first + len(response))
            row += [i] * len(response)
        ids, mask = ids.to(self.device), mask.to(self.device)
        network: Any = self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = network.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        flat = torch.tensor(positions, device=self.device)
        return Scores(
            head=self._head,
            hidden=hidden.reshape(-1, hidden.shape[-1])[flat],
            ids=ids.reshape(-1)[flat + 1],
            row=torch.tensor(row, device=self.device),
            rows=len(sequences),
        )

    def _head(self, hidden: Tensor) -> Tensor:
        network: Any = self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits: Tensor = network.get_output_embeddings()(hidden)
        return logits.float() / self.temperature

    def token_logprobs(self, scores: Scores) -> Tensor:
        """log pi of each response token, float32 [tokens]."""

        def chunk(part: slice) -> Tensor:
            return log_softmax(scores.logits(part), -1).gather(-1, scores.ids[part, None])[:, 0]

        return over_chunks(chunk, len(scores.ids), self.chunk_tokens)

    @torch.no_grad()
    def response_logprobs(self, sequences: Sequences) -> Tensor:
        """Sum of log pi over each response, without gradients, float32 [rows]."""
        parts = []
        for span in self.spans(sequences):
            scores = self.score(sequences[span])
            parts.append(scores.per_row(self.token_logprobs(scores)))
        return torch.cat(parts)

    @torch.no_grad()
    def canary(self) -> Canary | None:
        """A fixed sequence with this policy's log-probs of it at temperature 1; None where they are not finite.

        The tokens are drawn from the vocabulary once and for all: they do not depend on the weights.
        """
        ids = _canary_ids(len(self.tokenizer), min(_CANARY_TOKENS, self.max_context))
        unheated = copy.copy(self)
        unheated.temperature = 1.0
        logprobs = unheated.token_logprobs(unheated.score(Sequences([ids[:1]], [ids[1:]]))).tolist()
        return Canary(token_ids=ids, logprobs=logprobs) if all(map(math.isfinite, logprobs)) else None

    def spans(self, *aligned: Sequences) -> Iterator[slice]:
        """Slices of rows such that each of the aligned sequences fits in `microbatch_tokens` when padded."""
        start, width = 0, 0
        for i in range(len(aligned[0])):
            length = max(len(s.prompts[i]) + len(s.responses[i]) for s in aligned)
            if i > start and max(width, length) * (i - start + 1) > self.microbatch_tokens:
                yield slice(start, i)
                start, width = i, 0
            width = max(width, length)
        if start < len(aligned[0]):
            yield slice(start, len(aligned[0]))

    def save(self, directory: Path, *, tokenizer: bool = False) -> str | None:
        """Write the weights (float32 safetensors) and configuration in Hugging Face format. The SHA-256 of the weights
        where it is known from writing them."""
        network: Any = self.network
        network.save_pretrained(directory)
        if tokenizer:
            self.tokenizer.save_pretrained(directory)
        return None


def _canary_ids(tokens: int, length: int) -> list[int]:
    draw = random.Random("canary")
    return [draw.randrange(tokens) for _ in range(length)]


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DataError("model.device is 'cuda' but torch sees no GPU; set model.device=cpu", field="model.device")
    return wanted
