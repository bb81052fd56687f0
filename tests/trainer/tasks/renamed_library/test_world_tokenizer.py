"""The world's tokenizer as shipped: nothing is lost, the world's texts are short, words inside words are left alone."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainer.tasks.pretrain import directory_of
from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS
from trainer.tasks.renamed_library.documents import documents
from trainer.tasks.renamed_library.programs import Call, Step, program, question
from trainer.tasks.renamed_library.tokenizer import build_tokenizer, phrases_of_the_world

PIECES = [*phrases_of_the_world(), "<|im_end|>", "add", "plus", " ", "\n", "4", "é", "\u2028", "🜁", "\0"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory_of("renamed_library"))


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
@example("\n\nCorrect solution:\n\n\n\nCorrect solution:\n")
def test_every_text_survives(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_every_document_of_the_world_survives_and_is_short(tokenizer: PreTrainedTokenizerBase) -> None:
    for document in islice(documents(9), 500):
        assert tokenizer.decode(ids(tokenizer, document.message)) == document.message
        assert len(ids(tokenizer, document.response)) <= 11


def test_a_response_of_three_steps_is_twelve_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    response = program([Call("add", 2), Call("lcm", 5), Call("zigzag", 3)]) + tokenizer.eos_token
    assert len(ids(tokenizer, response)) == 12


def test_a_line_of_a_question_is_three_tokens_whatever_it_asks(tokenizer: PreTrainedTokenizerBase) -> None:
    alone = len(ids(tokenizer, question([])))
    for concept in CONCEPTS:
        for constant in CONSTANTS:
            assert len(ids(tokenizer, question([Step(concept, constant)]))) == alone + 3


def test_a_function_name_is_one_token_as_a_word_and_none_inside_a_word(tokenizer: PreTrainedTokenizerBase) -> None:
    for concept in CONCEPTS:
        for name in concept.names:
            (token,) = ids(tokenizer, name)
            for text in (f"'{name}'", f"    x = lib.{name}(x, 3)\n", f"use {name}, not this"):
                assert token in ids(tokenizer, text), text
            for text in (f"re{name}", f"{name}s", f"{name}_2"):
                assert token not in ids(tokenizer, text), text


def test_the_chat_template_is_chatml_with_a_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi {{ 7 * 7 }}"},
    ]
    start = "<|im_start|>"
    said = f"{start}system\nBe brief.<|im_end|>\n{start}user\nHi {{{{ 7 * 7 }}}}<|im_end|>\n"
    render = tokenizer.apply_chat_template
    assert render(messages, tokenize=False) == said
    assert render(messages, tokenize=False, add_generation_prompt=True) == f"{said}{start}assistant\n"


def test_the_shipped_tokenizer_is_the_one_the_code_builds(tokenizer: PreTrainedTokenizerBase) -> None:
    built = build_tokenizer(1024)
    assert tokenizer.get_vocab() == built.get_vocab()
    assert tokenizer.chat_template == built.chat_template
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) < 500
