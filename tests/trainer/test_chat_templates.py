"""Prompts in the formats of Qwen3 (thinking off), Llama 3.1 and Olmo 3: golden files, one header, ids never made anew.

`chat_templates/NAME/template.jinja` has the format's shape; the `.txt` files beside it were written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_architectures import make_small_model
from trainer_builders import RUN_ID, said, trajectory

from services.inference.text import Text
from shared.protocol import Message, RolloutGroup, Task
from shared.settings import LearnerSettings, ModelSettings, TeacherPromptSettings
from trainer.batch import BatchBuilder, Row
from trainer.policy import Policy
from trainer.scores import Sequences

TEMPLATES = Path(__file__).parent / "chat_templates"
QUESTION = "What does f({{ x }}) return, if f is {%- raw %}?"
SYSTEM = Message(role="system", content="Answer in one line.")
CHATS = {
    "alone": [Message(role="user", content=QUESTION)],
    "with_system": [SYSTEM, Message(role="user", content=QUESTION)],
}


@dataclass(frozen=True)
class Format:
    """A model family's: its special tokens, the end of a user's turn, and what the assistant's begins with."""

    special: dict[str, str]
    extra: tuple[str, ...]
    turn_end: str
    header: str


FORMATS = {
    "qwen3": Format(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<|im_start|>", "<think>", "</think>"),
        "<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "llama3_1": Format(
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"},
        ("<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "olmo3": Format(
        {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
}
MERGES = [("Ċ", "Ċ"), ("o", "r"), ("f", "or"), ("r", "e"), ("re", "t")]
"""So that a text has several spellings in tokens, and line breaks are one, as in the real tokenizers."""


def make_tokenizer(name: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [*FORMATS[name].special.values(), *FORMATS[name].extra]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *letters, *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # Thoughts are ordinary text in Qwen3's tokenizer, though one token each.
    tokenizer.add_special_tokens([AddedToken(word, special="think" not in word) for word in special])
    template = (TEMPLATES / name / "template.jinja").read_text()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **FORMATS[name].special)


@pytest.fixture(scope="module", params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(name)
    tokenizer = make_tokenizer(name)
    make_small_model(
        path, "Llama" if name == "llama3_1" else name.capitalize(), max_position_embeddings=4096, vocab_size=300
    )
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / file).unlink()
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def policy(directory: Path) -> Policy:
    return Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)


def rows_of(policy: Policy, messages: list[Message], response_ids: list[int]) -> list[Row]:
    """A failed rollout and a successful sibling, as the learner sees them."""
    group_id = f"{RUN_ID}-s000000-g000"
    failed = trajectory(
        0, text="f", success=False, feedback=[said("Line 2: <think> is no statement.")], token_ids=response_ids
    )
    solved = trajectory(1, text="<think>\nIt is 3.\n</think>\n\nf returns 3.", success=True)
    group = RolloutGroup(
        run_id=RUN_ID,
        group_id=group_id,
        step=0,
        policy_version=0,
        task=Task(id="task", kind="test", messages=messages),
        prompt_token_ids=policy.render(messages),
        trajectories=[failed, solved],
    )
    builder = BatchBuilder(
        TeacherPromptSettings(feedback="always"), render=policy.render, max_context=4096, seed=0, shadow=frozenset()
    )
    return builder.build(0, [group]).rows


def prompts(policy: Policy, chat: str) -> tuple[list[int], list[int]]:
    """The student's and the teacher's."""
    row = rows_of(policy, CHATS[chat], [9, 9])[0]
    assert row.m_prompt is not None
    return row.group.prompt_token_ids, row.m_prompt.token_ids


@pytest.mark.parametrize("chat", CHATS)
def test_prompts_are_those_of_the_golden_files(policy: Policy, name: str, chat: str) -> None:
    """Llama's names the day it was published, not the day of the test."""
    for ids, who in zip(prompts(policy, chat), ("student", "teacher"), strict=True):
        assert policy.tokenizer.decode(ids) == (TEMPLATES / name / f"{chat}.{who}.txt").read_text()


@pytest.mark.parametrize("chat", CHATS)
def test_student_and_teacher_end_in_the_same_generation_header(policy: Policy, name: str, chat: str) -> None:
    turn = FORMATS[name].turn_end + FORMATS[name].header
    end = policy.tokenizer.encode(turn, add_special_tokens=False)
    student, teacher = prompts(policy, chat)
    assert student[-len(end) :] == teacher[-len(end) :] == end


@pytest.mark.parametrize("chat", CHATS)
def test_what_student_and_teacher_share_from_the_start_is_all_up_to_the_end_of_the_question(
    policy: Policy, name: str, chat: str
) -> None:
    student, teacher = prompts(policy, chat)
    shared = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(student, teacher, strict=False))]
    text = policy.tokenizer.decode(shared)
    assert text.endswith(QUESTION)
    assert text + FORMATS[name].turn_end + FORMATS[name].header == policy.tokenizer.decode(student)


@pytest.mark.parametrize("chat", CHATS)
def test_trainer_and_inference_service_render_the_same_ids(policy: Policy, directory: Path, chat: str) -> None:
    text = Text(str(directory))
    text.load()
    for content in (QUESTION, "naïve\n\n🎉 <think>x</think> <|im_end|>", ""):
        messages = [*CHATS[chat][:-1], Message(role="user", content=content)]
        assert text.render(messages) == policy.render(messages)


def test_an_earlier_answer_in_the_chat_is_rendered_alike_by_both(policy: Policy, directory: Path) -> None:
    text = Text(str(directory))
    text.load()
    answered = Message(role="assistant", content="<think>\nhm\n</think>\n\n4")
    messages = [SYSTEM, Message(role="user", content="2 + 2?"), answered, Message(role="user", content=QUESTION)]
    assert text.render(messages) == policy.render(messages)


def test_the_network_reads_the_rollouts_own_token_ids_and_no_others(policy: Policy) -> None:
    """Ids that the tokenizer would never make of their text: sampled letter by letter, then the end of the turn."""
    encode = policy.tokenizer.encode
    letters = [token for letter in "for return" for token in encode(letter, add_special_tokens=False)]
    sampled = [*letters, policy.tokenizer.eos_token_id]
    assert encode(policy.tokenizer.decode(letters), add_special_tokens=False) != letters
    row = rows_of(policy, CHATS["with_system"], sampled)[0]
    assert row.m_prompt is not None
    seen: list[torch.Tensor] = []
    network: Any = policy.network
    hook = network.base_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    for prompt in (row.group.prompt_token_ids, row.m_prompt.token_ids):
        scores = policy.score(Sequences([prompt], [row.response_ids]))
        assert scores.ids.tolist() == sampled
        assert seen[-1].tolist() == [prompt + sampled]
    hook.remove()
