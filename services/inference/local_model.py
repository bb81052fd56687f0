"""A Hugging Face model and its tokenizer in this process: text to tokens, rollouts, new weights.

Synchronous; `transformers_engine.py` decides which thread calls what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.inference import decoding
from services.inference.engine import EngineInfo
from services.inference.weights import apply_weights, read_weights
from shared.errors import DataError, SettingsError
from shared.models import resolve_model
from shared.protocol import Message, Rollout, Sampling, VersionSpan
from shared.settings import ModelSettings

_RENDERED = 4096
"""Prompts whose token ids are kept: held-out tasks come again at every evaluation."""


class LocalModel:
    """The model of the settings, under policy `version` (0 until weights are swapped)."""

    def __init__(self, settings: ModelSettings, *, max_batch_rows: int) -> None:
        source = resolve_model(settings.path)
        device = _device(settings.device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, settings.dtype))
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(f"model.path: {settings.path} cannot be loaded: {reason}") from error
        self._model: Any = model.to(device).eval()
        self._max_batch_rows = max_batch_rows
        # A fast tokenizer must not encode and decode in two threads at once.
        self._text_lock = threading.Lock()
        self._render = lru_cache(_RENDERED)(self._render_anew)
        ends = _end_ids(self._model, self._tokenizer)
        self._stop_ids = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._pad_id = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else min(ends | {0})
        self._ends = ends
        self.version = 0
        config = self._model.config.get_text_config()
        self.info = EngineInfo(max_context=int(config.max_position_embeddings), vocabulary=int(config.vocab_size))

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Prompt token ids of a chat. Raises DataError when the chat template refuses it."""
        return list(self._render(tuple((message.role, message.content) for message in messages)))

    def _render_anew(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        chat = [{"role": role, "content": content} for role, content in messages]
        try:
            with self._text_lock:
                ids = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        except (TemplateError, ValueError) as error:
            raise DataError(f"The model's chat template refuses these messages: {error}", field="messages") from error
        return tuple(int(token) for token in ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text."""
        with self._text_lock:
            return [int(token) for token in self._tokenizer(text)["input_ids"]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens and without the end token."""
        shown = [token for token in token_ids if token not in self._ends]
        with self._text_lock:
            return str(self._tokenizer.decode(shown, skip_special_tokens=True))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, cancelled: Callable[[], bool]
    ) -> list[Rollout]:
        """One rollout of each prompt, in order. Raises decoding.Cancelled."""
        generator = torch.Generator(self._model.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        rollouts: dict[int, Rollout] = {}
        for start in range(0, len(order), self._max_batch_rows):
            chunk = order[start : start + self._max_batch_rows]
            sampled = decoding.sample(
                self._model,
                [prompts[index] for index in chunk],
                sampling,
                stop_ids=self._stop_ids,
                pad_id=self._pad_id,
                generator=generator,
                cancelled=cancelled,
            )
            rollouts |= {index: self._rollout(result) for index, result in zip(chunk, sampled, strict=True)}
        return [rollouts[index] for index in range(len(prompts))]

    def read(self, directory: Path) -> dict[str, torch.Tensor]:
        """The checked weights of a checkpoint. Raises DataError; changes nothing."""
        return read_weights(directory, self._model)

    def swap(self, weights: dict[str, torch.Tensor], version: int) -> None:
        """Take weights that `read` has checked, as `version`."""
        apply_weights(weights, self._model)
        self.version = version

    def _rollout(self, sampled: decoding.Sampled) -> Rollout:
        return Rollout(
            text=self.decode(sampled.token_ids),
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish_reason="stop" if sampled.stopped else "length",
            versions=[VersionSpan(version=self.version, start=0, end=len(sampled.token_ids))],
        )


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("model.device is cuda, but torch finds no GPU here; set it to cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None}
