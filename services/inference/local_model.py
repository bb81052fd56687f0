"""A Hugging Face model in this process: responses, scores, new weights. Tokens in, tokens out.

Synchronous; `transformers_engine.py` decides which thread calls what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from services.inference import decoding, scoring
from services.inference.checkpoint import WEIGHTS_FILE, read_header
from services.inference.engine import EngineInfo, Sampled
from services.inference.model_files import model_directory
from services.inference.text import Text
from shared.errors import DataError, SettingsError
from shared.protocol import Sampling, VersionSpan
from shared.settings import ModelSettings

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}


class LocalModel:
    """The model of the settings, under policy `version` (0 until weights are swapped)."""

    def __init__(self, settings: ModelSettings, *, max_batch_rows: int, max_context: int | None = None) -> None:
        directory = model_directory(settings.path)
        device = _device(settings.device)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, settings.dtype))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(f"model.path: {settings.path} cannot be loaded: {reason}") from error
        self._model: Any = model.to(device).eval()
        self._max_batch_rows = max_batch_rows
        text = Text(settings.path)
        text.load()
        self._stop_ids = torch.tensor(sorted(text.ends), dtype=torch.long, device=device)
        config = self._model.config.get_text_config()
        self._pad_id = config.pad_token_id if config.pad_token_id is not None else 0
        self.version = 0
        positions = getattr(config, "max_position_embeddings", None) or max_context
        if positions is None:
            raise SettingsError(
                f"model.path: {settings.path} has no max_position_embeddings in its config.json: add it, or set "
                "inference.max_context."
            )
        self.info = EngineInfo(min(int(positions), max_context or int(positions)), vocabulary=int(config.vocab_size))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancelled: Callable[[], bool],
        on_token: decoding.OnToken | None = None,
    ) -> list[Sampled]:
        """One response to each prompt, in order; `on_token` is `decoding.sample`'s. Raises decoding.Cancelled."""
        generator = torch.Generator(self._model.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        made: dict[int, Sampled] = {}
        for start in range(0, len(order), self._max_batch_rows):
            chunk = order[start : start + self._max_batch_rows]
            responses = decoding.sample(
                self._model,
                [prompts[index] for index in chunk],
                sampling,
                stop_ids=self._stop_ids[:0] if sampling.ignore_end else self._stop_ids,
                pad_id=self._pad_id,
                generator=generator,
                cancelled=cancelled,
                on_token=None if on_token is None else _renumbered(on_token, chunk),
            )
            made |= {index: self._sampled(response) for index, response in zip(chunk, responses, strict=True)}
        return [made[index] for index in range(len(prompts))]

    def score(self, sequences: Sequence[Sequence[int]], cancelled: Callable[[], bool]) -> list[list[float]]:
        """Log-probs at temperature 1 of each sequence's tokens after its first. Raises decoding.Cancelled."""
        return scoring.score(self._model, sequences, max_rows=self._max_batch_rows, cancelled=cancelled)

    def read(self, directory: Path) -> dict[str, torch.Tensor]:
        """The weights of a checkpoint that `checkpoint.py` has passed. Raises DataError; changes nothing."""
        expected = self._model.state_dict()
        try:
            weights = _read_tensors(directory / WEIGHTS_FILE)
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"The checkpoint is refused: it cannot be read: {error}.", field="path") from error
        for name, tensor in weights.items():
            if name not in expected or tensor.shape != expected[name].shape:
                raise DataError(f"The checkpoint is refused: {name} does not fit the model.", field="path")
        return weights

    @torch.no_grad()
    def swap(self, weights: dict[str, torch.Tensor], version: int) -> None:
        """Take weights that `read` has given, as `version`."""
        parameters: dict[str, torch.Tensor] = self._model.state_dict()
        # In this order a tied head, where it is stored at all, does not overwrite the embeddings.
        for name in sorted(weights):
            parameters[name].copy_(weights[name])
        self.version = version

    def _sampled(self, response: decoding.Response) -> Sampled:
        return Sampled(
            token_ids=response.token_ids,
            logprobs=response.logprobs,
            finish_reason="stop" if response.stopped else "length",
            versions=[VersionSpan(version=self.version, start=0, end=len(response.token_ids))],
        )


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name. Raises SafetensorError, OSError or ValueError.

    Not safetensors' own: its 0.8.0 leaves 56 bytes behind for each tensor it hands out, with every version published.
    """
    tensors = {}
    with file.open("rb") as stream:
        for name, tensor in read_header(file).items():
            start, end = tensor.bytes
            content = bytearray(end - start)
            stream.seek(start)
            if tensor.dtype not in _TYPES or stream.readinto(content) != len(content):
                raise ValueError(f"{name} is cut, or of type {tensor.dtype}")
            flat = torch.frombuffer(content, dtype=_TYPES[tensor.dtype]) if content else torch.empty(0)
            tensors[name] = flat.to(_TYPES[tensor.dtype]).reshape(tensor.shape)
    return tensors


def _renumbered(on_token: decoding.OnToken, prompts: Sequence[int]) -> decoding.OnToken:
    return lambda row, token, logprob, reason: on_token(prompts[row], token, logprob, reason)


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("model.device is cuda, but torch finds no GPU here; set it to cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
