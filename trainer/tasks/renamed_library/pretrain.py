"""Builds the world's model: `python -m trainer.tasks.renamed_library.pretrain`, minutes on one core.

Writes a Hugging Face model directory with its tokenizer and `training.json`, which says how it was made. Training
after this, on a run's own library, is the learner's business.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from trainer.tasks.renamed_library.documents import Document, documents
from trainer.tasks.renamed_library.measure import measure
from trainer.tasks.renamed_library.tokenizer import END_OF_MESSAGE, build_tokenizer

MODEL_DIRECTORY = Path(__file__).with_name("model")
COMMAND = "python -m trainer.tasks.renamed_library.pretrain"
MAX_CONTEXT = 1024
LEARNING_RATE = 2e-3
WARMUP_SHARE = 1 / 32
LESSONS_SHARE = 0.4
"""Of the documents, those that show attentive habits; they come first."""
BUCKET_BATCHES = 16
"""Batches drawn together and sorted by length, so that little is padding."""

Row = tuple[list[int], int]
"""Token ids of prompt and response, and how many of them are the prompt."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, measure and write the model. `arguments` are the command line's."""
    options = _options(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    tokenizer = build_tokenizer(MAX_CONTEXT)
    model = build_model(tokenizer)
    train(model, tokenizer, seed=options.seed, steps=options.steps, batch=options.batch)
    wall_s = time.monotonic() - started
    sha256 = save(model, tokenizer, options.out)
    prior = measure(model, tokenizer, questions=options.questions, world_seed=0, seed=options.seed)
    record = {
        "command": f"{COMMAND} --seed {options.seed} --steps {options.steps} --batch {options.batch}",
        "seed": options.seed,
        "steps": options.steps,
        "documents": options.steps * options.batch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_s": round(wall_s, 1),
        "sha256": sha256,
        "prior": prior.as_dict(),
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Build the model of the renamed library.")
    parser.add_argument("--seed", type=int, default=1, help="of weights, documents and libraries")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=64, help="documents a step")
    parser.add_argument("--questions", type=int, default=2000, help="questions the result is measured on")
    parser.add_argument("--out", type=Path, default=MODEL_DIRECTORY, help="model directory to write")
    return parser.parse_args(arguments)


def build_model(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A Qwen3 of about 380 thousand parameters with fresh weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        use_sliding_window=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, seed: int, steps: int, batch: int) -> None:
    """AdamW on the response tokens of fresh documents, linear warm-up, then linear decay to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = steps * WARMUP_SHARE
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))
    )
    model.train()
    batches = _batches(tokenizer, documents(seed, lessons=int(LESSONS_SHARE * steps * batch)), batch, seed)
    smoothed = 0.0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    ) as progress:  # fmt: skip
        bar = progress.add_task("pre-training", total=steps)
        for rows in islice(batches, steps):
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


if __name__ == "__main__":
    main()
