"""Tokenizers of the worlds: bytes for whatever people write, one token for each phrase a world uses all the time.

A byte-level BPE without merges: a pattern cuts the text at known phrases (the longest first), a phrase in the
vocabulary is one token, all else falls to bytes. Every text survives encoding and decoding unchanged. Which phrases
a world has is its own business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.settings import TeacherPromptSettings

END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ROLES = ("user\n", "assistant\n", "system\n")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def build_tokenizer(phrases: Sequence[str], words: Sequence[str], *, max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside a model of `max_tokens` tokens of context.

    `phrases` are one token each wherever they stand, `words` (identifiers) only where they stand alone.
    """
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_fast_tokenizer(phrases, words),
        eos_token=END_OF_MESSAGE,
        pad_token=END_OF_TEXT,
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def teacher_phrases() -> list[str]:
    """The fixed pieces of the teacher's prompt, as the settings have them by default."""
    teacher = TeacherPromptSettings()
    return [teacher.demonstration_header, teacher.feedback_header, teacher.success_header, teacher.closing]


def _fast_tokenizer(phrases: Sequence[str], words: Sequence[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [_byte_level(p) for p in [*phrases, *words]]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*alphabet, *pieces]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern(phrases, words)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE)]
    )
    return tokenizer


def _pattern(phrases: Sequence[str], words: Sequence[str]) -> str:
    either = "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))
    if not words:
        return either
    names = "|".join(sorted(words, key=len, reverse=True))
    return rf"{either}|(?<![A-Za-z0-9_])(?:{names})(?![A-Za-z0-9_])"


def _byte_level(text: str) -> str:
    return "".join(piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text))
