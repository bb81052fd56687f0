"""The world's tokenizer: which phrases are one token. How it cuts text is in `phrase_tokenizer.py`."""

from __future__ import annotations

from functools import cache

from transformers import PreTrainedTokenizerFast

from trainer.tasks import phrase_tokenizer
from trainer.tasks.phrase_tokenizer import ROLES, teacher_phrases
from trainer.tasks.rigid_math.problems import ANSWER, QUESTION, RIGHT, THEN


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside a model of that context length."""
    return phrase_tokenizer.build_tokenizer(phrases_of_the_world(), (), max_tokens=max_tokens)


@cache
def phrases_of_the_world() -> tuple[str, ...]:
    """Pieces of questions, solutions, feedback and teacher prompts that are one token each."""
    feedback = ["The answer ", " is wrong.", " is correct."]
    operations = [f" {operation} " for operation in RIGHT]
    return (QUESTION, THEN, *operations, " = ", ANSWER, *feedback, *teacher_phrases(), *ROLES)
