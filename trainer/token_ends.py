"""Where each token of a response ends in its text, from the ids alone: nothing is tokenised again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

_MOST_OF_A_CHARACTER = 16
"""Tokens that can be parts of one character, and some more: so many without a text are no character at all."""


def token_ends(tokenizer: Any, token_ids: Sequence[int], response: str) -> list[int]:
    """For each token the offset in `response`, in code points, where its text ends.

    Tokens that share a character share its end; special tokens, which have no text, have that of the token before
    them. Offsets never fall, and the last is the response's length, also where the tokens' texts do not add up to it (a
    stop string cut it). A tokenizer without a fast one behind it cannot tell: there all tokens share the response's
    end.
    """
    length = len(response)
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return [length] * len(token_ids)
    special = set(tokenizer.all_special_ids)
    ends: list[int] = []
    end, stream = 0, DecodeStream(skip_special_tokens=True)
    waiting: list[int] = []
    for token_id in token_ids:
        if token_id in special and not waiting:
            ends.append(end)
            continue
        waiting.append(token_id)
        text = stream.step(fast, token_id)
        if not text and len(waiting) > _MOST_OF_A_CHARACTER:
            # The stream would read all of them again with each token that comes.
            text, stream = fast.decode(waiting), DecodeStream(skip_special_tokens=True)
        if text:
            end = min(end + len(text), length)
            ends += [end] * len(waiting)
            waiting.clear()
    # What is waiting still are parts of a character that was never completed.
    ends += [length] * len(waiting)
    return [*ends[:-1], length] if ends else []
