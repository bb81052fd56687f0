"""What a model of the world does before any training on it: its accuracy, and how it takes feedback and solutions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shared.settings import TeacherPromptSettings
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.outcomes import judge
from trainer.tasks.renamed_library.programs import Call, parse, program, question
from trainer.tasks.renamed_library.prompts import draw_checked, held_out_combinations
from trainer.teacher_prompt import compose

MAX_TOKENS = 16


@dataclass(frozen=True)
class Prior:
    """Shares over sampled three-step held-out questions at temperature 1.

    `well_formed`: responses that are programs of the world's shape. `student_accuracy`: right with the question
    alone. `usual_names`: lines that use the usual name. `rename_followed`: of second attempts after an error that
    named a rename, those that use the new name on that line. `line_copied`: lines taken from a worked solution.
    """

    questions: int
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
    draw = random.Random(f"measure:{seed}")
    generator = torch.Generator().manual_seed(seed)
    library = world_library(world_seed)
    settings = TeacherPromptSettings()
    combinations = sorted(sorted(names) for names in held_out_combinations())
    concepts = {c.usual: c for c in CONCEPTS}
    drawn = []
    for _ in range(questions):
        chosen = [concepts[name] for name in draw.choice(combinations)]
        draw.shuffle(chosen)
        drawn.append(draw_checked(draw, chosen))

    def answers(messages: Sequence[str]) -> list[list[Call]]:
        return [parse(text) or [] for text in sample(model, tokenizer, messages, generator)]

    first = answers([question(steps) for steps, _ in drawn])
    outcomes = [judge(calls, library, tests) if calls else None for calls, (_, tests) in zip(first, drawn, strict=True)]
    named = [
        (steps, o.text, o.failed_call, o.new_name)
        for (steps, _), o in zip(drawn, outcomes, strict=True)
        if o is not None and o.failed_call is not None and o.new_name is not None
    ]
    second = answers(
        [
            compose(question(steps), demonstration=None, feedback=text, succeeded=False, settings=settings)
            for steps, text, _, _ in named
        ]
    )
    followed = [at < len(calls) and calls[at].name == new for calls, (_, _, at, new) in zip(second, named, strict=True)]
    solutions = [[Call(library.real(s.concept), s.constant) for s in steps] for steps, _ in drawn]
    shown = answers(
        [
            compose(question(steps), demonstration=program(s), feedback=None, succeeded=False, settings=settings)
            for (steps, _), s in zip(drawn, solutions, strict=True)
        ]
    )
    copied = [
        i < len(calls) and calls[i] == line
        for calls, solution in zip(shown, solutions, strict=True)
        for i, line in enumerate(solution)
    ]
    usual = [
        i < len(calls) and calls[i].name == step.concept.usual
        for calls, (steps, _) in zip(first, drawn, strict=True)
        for i, step in enumerate(steps)
    ]
    return Prior(
        questions=questions,
        well_formed=_share([bool(calls) for calls in first]),
        student_accuracy=_share([o is not None and o.success for o in outcomes]),
        usual_names=_share(usual),
        rename_followed=_share(followed),
        line_copied=_share(copied),
    )


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / max(len(hits), 1), 4)


@torch.no_grad()
def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: Sequence[str], generator: torch.Generator
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
    for _ in range(MAX_TOKENS):
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
