"""How the models of the worlds of houses are made: the same size and measures, different documents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.tasks.house_dialect.documents import Shares, documents
from trainer.tasks.house_dialect.programs import parse
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.house_dialect.tokenizer import build_tokenizer
from trainer.tasks.measure import accuracies, sample
from trainer.tasks.pretraining import Recipe, Shape

MAX_TOKENS = 12


def recipe(world: type[HouseDialect], shares: Shares, *, steps: int) -> Recipe:
    """The recipe of a world of houses whose model learns documents in these shares."""
    return Recipe(
        shape=Shape(width=64, mlp=192, heads=4, head_dim=16),
        tokenizer=build_tokenizer,
        documents=lambda seed, lessons: documents(seed, shares, lessons=lessons),
        measure=_measure(world),
        steps=steps,
        batch=64,
        learning_rate=3e-3,
        lessons_share=0.6,
    )


def _measure(
    world: type[HouseDialect],
) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase, int, int], dict[str, float]]:
    def measure(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: int, seed: int
    ) -> dict[str, float]:
        """Over the held-out tasks of as many houses as it takes."""
        generator = torch.Generator().manual_seed(seed)
        house = world(world_seed=0, seed=seed)
        tasks = [task for w in range(-(-questions // 300)) for task in world(world_seed=w, seed=seed).held_out(300)]
        return accuracies(
            house,
            tasks[:questions],
            lambda messages: sample(model, tokenizer, messages, generator, max_tokens=MAX_TOKENS),
            well_formed=lambda text: parse(text) is not None,
            solution=lambda task: world(world_seed=int(task.id.split("-")[1]), seed=seed).solution(task),
        )

    return measure


SHARES = Shares(plain=0.13, tested=0.42, said=0.25, shown=0.12, critic=0.08)
RECIPE = recipe(HouseDialect, SHARES, steps=2400)
