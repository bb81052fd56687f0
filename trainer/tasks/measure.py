"""What a model of a world does before any training in it: its accuracy, alone and told something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shared.protocol import Task
from shared.settings import TeacherPromptSettings
from trainer.tasks import World
from trainer.teacher_prompt import compose

Answers = Callable[[Sequence[str]], list[str]]
"""User messages -> a response sampled for each."""


def accuracies(
    world: World,
    tasks: Sequence[Task],
    answers: Answers,
    *,
    well_formed: Callable[[str], bool],
    solution: Callable[[Task], str],
) -> dict[str, float]:
    """Shares over one response to each of `tasks`, judged by the world.

    `well_formed`: responses of the world's shape. `student_accuracy`: right with the question alone.
    `teacher_accuracy`: right after the feedback on the student's own response; left out where the world gives
    no text. `shown_accuracy`: right after a worked solution.
    """
    questions = [task.messages[-1].content for task in tasks]
    first = answers(questions)
    outcomes = [world.judge(task, text) for task, text in zip(tasks, first, strict=True)]
    shown = [
        teacher_message(question, demonstration=solution(task)) for question, task in zip(questions, tasks, strict=True)
    ]

    def accuracy(messages: Sequence[str]) -> float:
        return share([world.judge(task, text).success for task, text in zip(tasks, answers(messages), strict=True)])

    figures = {
        "well_formed": share([well_formed(text) for text in first]),
        "student_accuracy": share([outcome.success for outcome in outcomes]),
    }
    if all(outcome.text is not None for outcome in outcomes):
        informed = [
            teacher_message(question, feedback=outcome.text, succeeded=outcome.success)
            for question, outcome in zip(questions, outcomes, strict=True)
        ]
        figures["teacher_accuracy"] = accuracy(informed)
    return {**figures, "shown_accuracy": accuracy(shown)}


def teacher_message(
    question: str, *, demonstration: str | None = None, feedback: str | None = None, succeeded: bool = False
) -> str:
    """The teacher's user message at the default settings."""
    return compose(
        question,
        demonstration=demonstration,
        feedback=feedback,
        succeeded=succeeded,
        settings=TeacherPromptSettings(),
    )


def share(hits: Sequence[bool]) -> float:
    """The share of hits, to four digits."""
    return round(sum(hits) / max(len(hits), 1), 4)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[str],
    generator: torch.Generator,
    *,
    max_tokens: int,
) -> list[str]:
    """One response at temperature 1 to each user message, as text without the end token."""
    if not messages:
        return []
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": m}], tokenize=False, add_generation_prompt=True)
        for m in messages
    ]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    mask = batch["attention_mask"]
    ids, past, written = batch["input_ids"], None, []
    for _ in range(max_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        past = out.past_key_values
        ids = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=generator)
        written.append(ids)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    rows = torch.cat(written, dim=1).tolist()
    end = tokenizer.eos_token_id
    return [str(tokenizer.decode(row[: row.index(end)] if end in row else row)) for row in rows]
