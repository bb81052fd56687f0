"""How a world's model is made: a small Qwen3 learns documents, and is saved with its tokenizer.

What the documents are is each world's business; which worlds and variants there are stands in `pretrain.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from trainer.tasks.document import Document
from trainer.tasks.phrase_tokenizer import END_OF_MESSAGE

MAX_CONTEXT = 1024
WARMUP_SHARE = 1 / 32
BUCKET_BATCHES = 16
"""Batches drawn together and sorted by length, so that little is padding."""

Row = tuple[list[int], int]
"""Token ids of prompt and response, and how many of them are the prompt."""


@dataclass(frozen=True)
class Shape:
    """Size of a model: hidden width, layers, attention heads of `head_dim` each, width of the MLP."""

    width: int
    mlp: int
    heads: int
    head_dim: int
    layers: int = 3


@dataclass(frozen=True)
class Recipe:
    """How one world's model is made. `documents(seed, lessons)` is the endless stream of a seed, of which the first
    `lessons` (`lessons_share` of all) show attentive habits; `measure(model, tokenizer, questions, seed)` is what the
    result does."""

    shape: Shape
    tokenizer: Callable[[int], PreTrainedTokenizerBase]
    documents: Callable[[int, int], Iterator[Document]]
    measure: Callable[[PreTrainedModel, PreTrainedTokenizerBase, int, int], Mapping[str, float]]
    steps: int
    batch: int
    learning_rate: float = 2e-3
    lessons_share: float = 0.4


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A Qwen3 with fresh weights, drawn by torch's global generator."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        use_sliding_window=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    stream: Iterator[Document],
    *,
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
) -> None:
    """AdamW on the response tokens of `batch` fresh documents a step, linear warm-up, then linear decay to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = steps * WARMUP_SHARE
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))
    )
    model.train()
    smoothed = 0.0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    ) as progress:  # fmt: skip
        bar = progress.add_task("pre-training", total=steps)
        for rows in islice(_batches(tokenizer, stream, batch, seed), steps):
            loss = _response_loss(model, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            smoothed = loss.item() if smoothed == 0 else 0.98 * smoothed + 0.02 * loss.item()
            progress.update(bar, advance=1, description=f"pre-training, loss {smoothed:.3f}")
    model.train(False)


def _response_loss(model: Qwen3ForCausalLM, rows: list[Row]) -> torch.Tensor:
    """Mean cross-entropy in nats over the response tokens of the batch. Rows are padded on the right: no real token
    attends to padding, so no mask is needed."""
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    learn = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (ids, prompt) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        learn[i, prompt : len(ids)] = True
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
    logits = model.lm_head(hidden[learn[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, tokens[:, 1:][learn[:, 1:]])


def _batches(
    tokenizer: PreTrainedTokenizerBase, stream: Iterator[Document], size: int, seed: int
) -> Iterator[list[Row]]:
    before, after = _chat_frame(tokenizer)
    shuffle = torch.Generator().manual_seed(seed)
    while True:
        drawn = list(islice(stream, size * BUCKET_BATCHES))
        prompts = tokenizer([before + d.message + after for d in drawn])["input_ids"]
        responses = tokenizer([d.response + END_OF_MESSAGE for d in drawn])["input_ids"]
        rows = sorted(((p + r, len(p)) for p, r in zip(prompts, responses, strict=True)), key=lambda row: len(row[0]))
        for i in torch.randperm(BUCKET_BATCHES, generator=shuffle).tolist():
            yield rows[i * size : (i + 1) * size]


def _chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the chat template puts before and after the user's words."""
    mark = "\0"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    before, after = str(text).split(mark)
    return before, after


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, directory: Path) -> str:
    """Write the model directory anew; returns the SHA-256 of `model.safetensors`."""
    shutil.rmtree(directory, ignore_errors=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(directory)
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
