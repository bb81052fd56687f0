"""Real LiveCodeBench questions against the sandbox: programs that know the expected outputs score 1, others 0."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from benchmark_rows import DATA, real_data

from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks.code_judge import CodeJudge
from trainer.tasks.sources import load_data

Outputs = list[str]
JUDGE = CodeJudge()
PERTURBATIONS: dict[str, Callable[[Outputs], Outputs]] = {
    "the last output is another": lambda outputs: [*outputs[:-1], changed(outputs[-1])],
    "the first output is another": lambda outputs: [changed(outputs[0]), *outputs[1:]],
    "all outputs are one more": lambda outputs: [changed(output) for output in outputs],
}


def questions() -> list[Task]:
    source = f"livecodebench:{DATA / 'livecodebench_v6.jsonl'}"
    loaded = load_data(TaskSettings(source=source)) if DATA.is_dir() else None
    return sorted((*loaded.training, *loaded.held_out), key=lambda task: task.id) if loaded else []


def changed(output: str) -> str:
    """Another output; JSON stays JSON."""
    try:
        return json.dumps([json.loads(output), 1])
    except ValueError:
        return f"{output.rstrip()} 1\n"


def response(task: Task, outputs: Outputs) -> str:
    """A program that looks the output of its input up."""
    inputs = [test["input"] for test in task.reference["tests"]]
    if task.kind == "code.stdin":
        table = dict(zip(inputs, outputs, strict=True))
        program = f"import sys\nTABLE = {table!r}\nsys.stdout.write(TABLE[sys.stdin.read()])\n"
    else:
        arguments = [json.dumps([json.loads(line) for line in one.split("\n")]) for one in inputs]
        table = {key: json.loads(output) for key, output in zip(arguments, outputs, strict=True)}
        program = (
            f"import json\nTABLE = {table!r}\n\nclass Solution:\n    def {task.reference['fn_name']}(self, *given):\n"
            "        return TABLE[json.dumps(list(given))]\n"
        )
    return f"It is easy.\n\n```python\n{program}```\n"


def scores(task: Task) -> None:
    outputs = [test["output"] for test in task.reference["tests"]]
    assert JUDGE.judge(task, response(task, outputs)).success, task.id
    for name, perturb in PERTURBATIONS.items():
        assert not JUDGE.judge(task, response(task, perturb(outputs))).success, (task.id, name)


@real_data
@pytest.mark.parametrize("task", questions()[::11], ids=lambda task: task.id)
def test_the_expected_outputs_of_some_real_questions_score_1_and_perturbed_ones_0(task: Task) -> None:
    scores(task)


@real_data
@pytest.mark.slow
@pytest.mark.parametrize("task", questions(), ids=lambda task: task.id)
def test_the_expected_outputs_of_every_real_question_score_1_and_perturbed_ones_0(task: Task) -> None:
    scores(task)
