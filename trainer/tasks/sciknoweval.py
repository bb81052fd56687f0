"""SciKnowEval's multiple choice: the rows of SDPO's export (`system`, `prompt`, `answer`), or the hub's own.

SDPO's export is a folder DOMAIN/{train,test}.jsonl of level 3 alone. The hub's rows (hicai-zju/SciKnowEval) are of all
levels and types; of them the level of the settings is taken, and multiple choice only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.critic_feedback.answers import as_letter
from shared.settings import SCIENCES, TaskSettings
from trainer.tasks.question import LeftOut, Question, identifier, make_task
from trainer.tasks.rows import Row

_STEPS = "Please reason step by step."


def read_sciknoweval(row: Row, settings: TaskSettings) -> Question | LeftOut:
    """The question of a row of the chosen domains. Raises DataError for a row of neither form."""
    ours = settings.sciknoweval
    domain = _domain(row)
    if domain not in ours.domains:
        return LeftOut(f"domain {domain}")
    if "choices" not in row.fields:
        return _exported(row, domain)
    details = row.fields.get("details")
    level = details.get("level") if isinstance(details, dict) else None
    if level is None:
        raise row.wrong("details.level", "is missing; the hub's rows have it")
    if level != ours.level:
        return LeftOut(f"level {level}")
    if not str(row.fields.get("type", "")).startswith("mcq"):
        return LeftOut(f"type {row.fields.get('type')}")
    return _of_the_hub(row, domain)


def _exported(row: Row, domain: str) -> Question:
    answer = row.text("answer")
    if as_letter(answer) is None:
        raise row.wrong("answer", f"{answer[:40]!r} is not the letter of an option; give the letter")
    for field in ("system", "prompt"):
        row.text(field)
    # White space around them is part of SDPO's prompts.
    return _question(row, domain, row.fields["system"], row.fields["prompt"], answer)


def _of_the_hub(row: Row, domain: str) -> Question:
    options = _options(row)
    answer = row.text("answerKey")
    if answer not in options:
        raise row.wrong("answerKey", f"{answer[:40]!r} is no label of the choices; they are {', '.join(options)}")
    lines = "\n".join(f"{label}: {text}" for label, text in options.items())
    return _question(row, domain, _system(list(options)), f"{row.text('question')}\n\n{lines}\n{_STEPS}", answer)


def _question(row: Row, domain: str, system: str, prompt: str, answer: str) -> Question:
    task = make_task(
        row,
        id=identifier(f"sciknoweval-{domain}", prompt),
        kind="choice",
        messages=[{"role": "system", "content": system}, {"role": "user", "content": prompt}],
        reference={"answer": answer},
    )
    return Question.of(prompt, task)


def _options(row: Row) -> dict[str, str]:
    """Text by label."""
    choices = row.fields["choices"]
    columns: list[Any] = [choices.get("label"), choices.get("text")] if isinstance(choices, dict) else [None]
    if not all(isinstance(column, list) and column for column in columns) or len({len(c) for c in columns}) != 1:
        raise row.wrong("choices", "is not {text: [...], label: [...]} with as many texts as labels")
    options = {str(label).strip(): str(text) for label, text in zip(*columns, strict=True)}
    if any(len(label) != 1 or not label.isalpha() for label in options) or len(options) != len(columns[0]):
        raise row.wrong("choices.label", "holds something that is no letter of its own")
    return options


def _system(labels: list[str]) -> str:
    letters = f"{', '.join(labels[:-1])} or {labels[-1]}"
    return (
        "Choose the right option of the question. Write your reasoning between <reasoning> and </reasoning>, then the "
        f"letter of the option ({letters}), and nothing else, between <answer> and </answer>."
    )


def _domain(row: Row) -> str:
    """The row's own, or else its folder's or file's name."""
    own = row.fields.get("domain")
    path = Path(row.file)
    for name in (own, path.parent.name, path.stem):
        if isinstance(name, str) and (found := name.strip().lower().replace("materials", "material")) in SCIENCES:
            return found
    raise row.wrong("domain", f"is none of {', '.join(SCIENCES)}, and neither is the name of the folder")
