"""The world's tokenizer: which phrases are one token. How it cuts text is in `phrase_tokenizer.py`."""

from __future__ import annotations

from functools import cache

from transformers import PreTrainedTokenizerFast

from trainer.tasks import phrase_tokenizer
from trainer.tasks.house_dialect.critiques import ALL_WELL, critic_phrases
from trainer.tasks.house_dialect.programs import BY, CLOSING, INDENT, OPENING, QUESTION, TAIL
from trainer.tasks.house_dialect.questions import INPUTS, TRIED
from trainer.tasks.house_dialect.verbs import CONSTANTS, FUNCTIONS, VERBS
from trainer.tasks.phrase_tokenizer import ROLES, teacher_phrases


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside a model of that context length."""
    return phrase_tokenizer.build_tokenizer(phrases_of_the_world(), numbers(), max_tokens=max_tokens)


@cache
def numbers() -> tuple[str, ...]:
    """The inputs and outputs of more than one digit, without a sign; one token each where they stand alone."""
    outputs = {abs(f.apply(x, k)) for f in FUNCTIONS for x in INPUTS for k in CONSTANTS}
    return tuple(str(number) for number in sorted(outputs | set(INPUTS)) if number > 9)


@cache
def phrases_of_the_world() -> tuple[str, ...]:
    """Pieces of questions, programs, feedback, critiques and prompts that are one token each."""
    asked = [f"\n{i}. " for i in (1, 2, 3)] + [verb.name + BY for verb in VERBS]
    programs = [OPENING, CLOSING, *(INDENT + f.expression for f in FUNCTIONS), *(f"{k}{TAIL}" for k in CONSTANTS)]
    feedback = [
        "Wrong answer: passed ",
        *(f" of {TRIED * steps} tests.\nInput:\n" for steps in (2, 3)),
        *(f"\n{step}\nOutput: " for step in (1, 2, 3)),
        "\nExpected: ",
        *(f"Passed all {TRIED * steps} tests." for steps in (2, 3)),
    ]
    said = [*(f.expression for f in FUNCTIONS), "Line ", " should be ", "In this house ", " means ", ALL_WELL]
    return (QUESTION, *asked, *programs, *feedback, *said, *critic_phrases(), *teacher_phrases(), *ROLES)
