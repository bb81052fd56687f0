"""Builds the model of a world: `python -m trainer.tasks.pretrain WORLD[/VARIANT]`, minutes on one core.

Writes a Hugging Face model directory with its tokenizer and `training.json`, which says how it was made. Training
after this, on a run's own tasks, is the learner's business.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.tasks import WORLDS
from trainer.tasks.pretraining import MAX_CONTEXT, Recipe, build_model, save, train

COMMAND = "python -m trainer.tasks.pretrain"
SEEDS = {"": 1, "seed2": 2}
"""Variants of every world's model, and the seed of weights and documents each is made with."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, measure and write one model. `arguments` are the command line's."""
    options = _options(arguments)
    world, _, variant = options.model.partition("/")
    recipe, seed = recipe_of(world), SEEDS[variant]
    steps, batch = options.steps or recipe.steps, options.batch or recipe.batch
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started = time.monotonic()
    tokenizer = recipe.tokenizer(MAX_CONTEXT)
    model = build_model(recipe.shape, tokenizer)
    stream = recipe.documents(seed, int(recipe.lessons_share * steps * batch))
    train(model, tokenizer, stream, seed=seed, steps=steps, batch=batch, learning_rate=recipe.learning_rate)
    wall_s = time.monotonic() - started
    out = options.out or directory_of(world, variant)
    sha256 = save(model, tokenizer, out)
    record = {
        "command": f"{COMMAND} {options.model}",
        "seed": seed,
        "steps": steps,
        "documents": steps * batch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_s": round(wall_s, 1),
        "sha256": sha256,
        "prior": {"questions": options.questions, **recipe.measure(model, tokenizer, options.questions, seed)},
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def recipe_of(world: str) -> Recipe:
    """The recipe of a world's model."""
    recipe: Recipe = importlib.import_module(f"trainer.tasks.{world}.recipe").RECIPE
    return recipe


def directory_of(world: str, variant: str = "") -> Path:
    """Where a world's model, or a variant of it, is shipped."""
    return Path(__file__).parent / world / (f"model_{variant}" if variant else "model")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    models = [f"{world}/{variant}".rstrip("/") for world in WORLDS for variant in SEEDS]
    parser = argparse.ArgumentParser(prog=COMMAND, description="Build the model of a world.")
    parser.add_argument("model", metavar="WORLD[/VARIANT]", choices=models, help=", ".join(models))
    parser.add_argument("--steps", type=int, help="optimizer steps; else the recipe's")
    parser.add_argument("--batch", type=int, help="documents a step; else the recipe's")
    parser.add_argument("--questions", type=int, default=2000, help="questions the result is measured on")
    parser.add_argument("--out", type=Path, help="model directory to write; else the shipped one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
