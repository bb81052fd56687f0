"""The world's tokenizer: which phrases and names are one token. How it cuts text is in `phrase_tokenizer.py`."""

from __future__ import annotations

from functools import cache

from transformers import PreTrainedTokenizerFast

from trainer.tasks import phrase_tokenizer
from trainer.tasks.phrase_tokenizer import ROLES, teacher_phrases
from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS
from trainer.tasks.renamed_library.programs import CALL, CLOSING, OPENING, QUESTION


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside a model of that context length."""
    return phrase_tokenizer.build_tokenizer(phrases_of_the_world(), function_names(), max_tokens=max_tokens)


@cache
def function_names() -> tuple[str, ...]:
    """Every name a function may have; one token where it stands as a word."""
    return tuple(name for concept in CONCEPTS for name in concept.names)


@cache
def phrases_of_the_world() -> tuple[str, ...]:
    """Pieces of questions, programs, feedback and teacher prompts that are one token each."""
    steps = [f"\n{i}" for i in (1, 2, 3)] + [f". {concept.phrase} " for concept in CONCEPTS]
    programs = [OPENING, CALL, CLOSING, *(f"(x, {k})\n" for k in CONSTANTS)]
    feedback = [
        "Runtime error: passed ",
        "Wrong answer: passed ",
        "Compile error: no test was run.\n",
        "SyntaxError: invalid syntax\n",
        "Passed all ",
        " of 8 tests.\n",
        " tests.",
        "AttributeError: module 'lib' has no attribute '",
        "', it was renamed to '",
        "'\nLine ",
        "Line ",
        " in solve: ",
        "Input: ",
        "\nOutput: ",
        "\nExpected: ",
    ]
    return (QUESTION, *steps, *programs, *teacher_phrases(), *feedback, *ROLES)
