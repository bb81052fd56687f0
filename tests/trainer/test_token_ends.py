"""Where tokens end in a response: characters in parts, special tokens, cut texts, and garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from shared.models import resolve_model
from trainer import token_ends as module
from trainer.token_ends import token_ends


@pytest.fixture(scope="module")
def tokenizer(tiny_model_directory: Path) -> Any:
    """A token a byte; <|end|> is special."""
    return AutoTokenizer.from_pretrained(tiny_model_directory)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_tokens_that_are_parts_of_a_character_share_its_end(tokenizer: Any) -> None:
    assert token_ends(tokenizer, ids_of(tokenizer, "aé字!"), "aé字!") == [1, 2, 2, 3, 3, 3, 4]


def test_special_tokens_end_where_the_text_before_them_does(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    a, b = ids_of(tokenizer, "ab")
    assert token_ends(tokenizer, [end, a, end, b, end], "ab") == [0, 1, 1, 2, 2]


def test_a_response_that_a_stop_string_has_cut_is_never_left(tokenizer: Any) -> None:
    assert token_ends(tokenizer, ids_of(tokenizer, "answer STOP"), "answer ") == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]


def test_the_last_token_ends_with_the_response_where_the_texts_do_not_add_up_to_it(tokenizer: Any) -> None:
    assert token_ends(tokenizer, ids_of(tokenizer, "ab"), "ab and more") == [1, 11]
    assert token_ends(tokenizer, ids_of(tokenizer, "é")[:1], "\ufffd") == [1]
    assert token_ends(tokenizer, [], "") == []


def test_a_tokenizer_that_cannot_tell_gives_the_response_s_end() -> None:
    assert token_ends(object(), [1, 2], "text") == [4, 4]


def test_tokens_of_the_built_in_model_are_whole_words() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:renamed_library"))
    text = "def solve(x):\n    return lib.double(x, 5)"
    ids = tokenizer.encode(text, add_special_tokens=False)
    ends = token_ends(tokenizer, ids, tokenizer.decode(ids))
    pieces = [tokenizer.decode(ids)[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert pieces == [tokenizer.decode([i]) for i in ids] and len(pieces) > 5


@given(st.lists(st.integers(0, 260), max_size=60), st.integers(0, 70))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_was_sampled_ends_never_fall_and_reach_the_response_s_length(
    tokenizer: Any, ids: list[int], kept: int
) -> None:
    response = tokenizer.decode(ids, skip_special_tokens=True)[:kept]
    ends = token_ends(tokenizer, ids, response)
    assert len(ends) == len(ids) and ends == sorted(ends)
    assert all(0 <= end <= len(response) for end in ends) and (not ids or ends[-1] == len(response))


def test_a_run_of_bytes_that_are_no_character_is_not_read_again_with_each_of_them(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counted:
        def __init__(self, **arguments: Any) -> None:
            self.stream, self.held = DecodeStream(**arguments), 0

        def step(self, fast: Any, token_id: int) -> str | None:
            self.held += 1
            read.append(self.held)
            return self.stream.step(fast, token_id)

    monkeypatch.setattr(module, "DecodeStream", Counted)
    (part,) = set(ids_of(tokenizer, "é")[:1])
    ends = token_ends(tokenizer, [part] * 2000, "\ufffd" * 2000)
    assert ends[-1] == 2000 and ends[1000] > 900
    assert max(read) < 20
