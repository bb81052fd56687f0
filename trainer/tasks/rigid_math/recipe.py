"""How the world's model is made."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.tasks.measure import accuracies, sample
from trainer.tasks.pretraining import Recipe, Shape
from trainer.tasks.rigid_math.documents import documents
from trainer.tasks.rigid_math.problems import HELD_OUT, parse
from trainer.tasks.rigid_math.task_set import RigidMath
from trainer.tasks.rigid_math.tokenizer import build_tokenizer

MAX_TOKENS = 24


def _measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: int, seed: int) -> dict[str, float]:
    """Over the held-out tasks, as often as it takes."""
    generator = torch.Generator().manual_seed(seed)
    world = RigidMath(world_seed=0, seed=seed)
    tasks = world.held_out(HELD_OUT) * -(-questions // HELD_OUT)
    return accuracies(
        world,
        tasks[:questions],
        lambda messages: sample(model, tokenizer, messages, generator, max_tokens=MAX_TOKENS),
        well_formed=lambda text: parse(text) is not None,
        solution=world.solution,
    )


RECIPE = Recipe(
    shape=Shape(width=64, mlp=192, heads=4, head_dim=16),
    tokenizer=build_tokenizer,
    documents=lambda seed, lessons: documents(seed, lessons=lessons),
    measure=_measure,
    steps=1200,
    batch=96,
)
