"""The world's tokenizer: bytes for whatever people write, one token for each phrase the world uses all the time.

A byte-level BPE without merges: a pattern cuts the text at known phrases (the longest first), a phrase in the
vocabulary is one token, all else falls to bytes. Every text survives encoding and decoding unchanged.
"""

from __future__ import annotations

import re
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.settings import TeacherPromptSettings
from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS
from trainer.tasks.renamed_library.programs import CALL, CLOSING, OPENING, QUESTION

END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside a model of that context length."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_fast_tokenizer(),
        eos_token=END_OF_MESSAGE,
        pad_token=END_OF_TEXT,
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _fast_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    phrases = [_byte_level(p) for p in [*phrases_of_the_world(), *function_names()]]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*alphabet, *phrases]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern()), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE)]
    )
    return tokenizer


def _pattern() -> str:
    longest_first = sorted(phrases_of_the_world(), key=len, reverse=True)
    names = sorted(function_names(), key=len, reverse=True)
    either = "|".join(map(re.escape, longest_first))
    return rf"{either}|(?<![A-Za-z0-9_])(?:{'|'.join(names)})(?![A-Za-z0-9_])"


def _byte_level(text: str) -> str:
    return "".join(piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text))


@cache
def function_names() -> tuple[str, ...]:
    """Every name a function may have; one token where it stands as a word."""
    return tuple(name for concept in CONCEPTS for name in concept.names)


@cache
def phrases_of_the_world() -> tuple[str, ...]:
    """Pieces of questions, programs, feedback and teacher prompts that are one token each."""
    teacher = TeacherPromptSettings()
    steps = [f"\n{i}" for i in (1, 2, 3)] + [f". {concept.phrase} " for concept in CONCEPTS]
    programs = [OPENING, CALL, CLOSING, *(f"(x, {k})\n" for k in CONSTANTS)]
    headers = [teacher.demonstration_header, teacher.feedback_header, teacher.success_header, teacher.closing]
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
    return (QUESTION, *steps, *programs, *headers, *feedback, "user\n", "assistant\n", "system\n")
