"""What a model of the world does before any training on it: its accuracy, and how it takes feedback and solutions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.tasks.measure import sample, share, teacher_message
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.library import Library, world_library
from trainer.tasks.renamed_library.outcomes import Outcome, Test, judge
from trainer.tasks.renamed_library.programs import Call, Step, parse, program, question
from trainer.tasks.renamed_library.prompts import draw_checked, held_out_combinations

MAX_TOKENS = 16
Asked = tuple[list[Step], list[Test]]
Answers = Callable[[Sequence[str]], list[list[Call]]]
"""Messages -> the calls of a sampled answer to each; none where it is no program of the world's shape."""


@dataclass(frozen=True)
class Prior:
    """Shares over sampled three-step held-out questions at temperature 1.

    `well_formed`: responses that are programs of the world's shape. `student_accuracy`: right with the question
    alone. `usual_names`: lines that use the usual name. `rename_followed`: of second attempts after an error that
    named a rename, those that use the new name on that line. `line_copied`: lines taken from a worked solution.
    """

    well_formed: float
    student_accuracy: float
    usual_names: float
    rename_followed: float
    line_copied: float

    def as_dict(self) -> dict[str, float]:
        """For a JSON file."""
        return asdict(self)


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, questions: int, world_seed: int, seed: int
) -> Prior:
    """Sample `questions` answers three ways: alone, after their own feedback, after a worked solution."""
    generator = torch.Generator().manual_seed(seed)
    library = world_library(world_seed)
    asked = _held_out_questions(random.Random(f"measure:{seed}"), questions)

    def answers(messages: Sequence[str]) -> list[list[Call]]:
        return [parse(text) or [] for text in sample(model, tokenizer, messages, generator, max_tokens=MAX_TOKENS)]

    first = answers([question(steps) for steps, _ in asked])
    outcomes = [judge(calls, library, tests) for calls, (_, tests) in zip(first, asked, strict=True)]
    return Prior(
        well_formed=share([bool(calls) for calls in first]),
        student_accuracy=share([bool(calls) and o.success for calls, o in zip(first, outcomes, strict=True)]),
        usual_names=share(
            [
                i < len(calls) and calls[i].name == step.concept.usual
                for calls, (steps, _) in zip(first, asked, strict=True)
                for i, step in enumerate(steps)
            ]
        ),
        rename_followed=_rename_followed(answers, asked, outcomes),
        line_copied=_line_copied(answers, asked, library),
    )


def _held_out_questions(draw: random.Random, count: int) -> list[Asked]:
    combinations = sorted(sorted(names) for names in held_out_combinations())
    by_name = {concept.usual: concept for concept in CONCEPTS}
    chosen = (draw.choice(combinations) for _ in range(count))
    return [draw_checked(draw, [by_name[name] for name in draw.sample(names, len(names))]) for names in chosen]


def _rename_followed(answers: Answers, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> float:
    told = [
        (teacher_message(question(steps), feedback=outcome.text), outcome.failed_call, outcome.new_name)
        for (steps, _), outcome in zip(asked, outcomes, strict=True)
        if outcome.failed_call is not None and outcome.new_name is not None
    ]
    second = answers([message for message, _, _ in told])
    return share([at < len(calls) and calls[at].name == new for calls, (_, at, new) in zip(second, told, strict=True)])


def _line_copied(answers: Answers, asked: Sequence[Asked], library: Library) -> float:
    solutions = [[Call(library.real(s.concept), s.constant) for s in steps] for steps, _ in asked]
    messages = [
        teacher_message(question(steps), demonstration=program(solution))
        for (steps, _), solution in zip(asked, solutions, strict=True)
    ]
    return share(
        [
            i < len(calls) and calls[i] == line
            for calls, solution in zip(answers(messages), solutions, strict=True)
            for i, line in enumerate(solution)
        ]
    )
