"""How the world's model is made: about 380 thousand parameters, 128 thousand documents."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.tasks.pretraining import Recipe, Shape
from trainer.tasks.renamed_library.documents import documents
from trainer.tasks.renamed_library.measure import measure
from trainer.tasks.renamed_library.tokenizer import build_tokenizer


def _measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: int, seed: int) -> dict[str, float]:
    return measure(model, tokenizer, questions=questions, world_seed=0, seed=seed).as_dict()


RECIPE = Recipe(
    shape=Shape(width=96, mlp=256, heads=4, head_dim=24),
    tokenizer=build_tokenizer,
    documents=lambda seed, lessons: documents(seed, lessons=lessons),
    measure=_measure,
    steps=2000,
    batch=64,
)
