"""The world's tokenizer: nothing is lost, and its texts are short, those of its critic too."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainer.tasks.house_dialect.documents import documents
from trainer.tasks.house_dialect.recipe import SHARES
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.house_dialect.tokenizer import build_tokenizer, phrases_of_the_world
from trainer.tasks.pretrain import directory_of

PIECES = [*phrases_of_the_world(), "<|im_end|>", "raise", " ", "\n", "4", "é", "\u2028", "🜁", "\0"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory_of("house_dialect"))


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_every_text_survives(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_every_document_survives_and_is_short(tokenizer: PreTrainedTokenizerBase) -> None:
    for document in islice(documents(9, SHARES), 1000):
        assert tokenizer.decode(ids(tokenizer, document.message)) == document.message
        assert len(ids(tokenizer, document.message)) <= 45
        assert len(ids(tokenizer, document.response)) <= 8


def test_questions_are_ten_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    for task in HouseDialect(world_seed=0, seed=1).held_out(50):
        assert len(ids(tokenizer, task.messages[-1].content)) == 10


def test_the_shipped_tokenizer_is_the_one_the_code_builds(tokenizer: PreTrainedTokenizerBase) -> None:
    built = build_tokenizer(1024)
    assert tokenizer.get_vocab() == built.get_vocab()
    assert tokenizer.chat_template == built.chat_template
