"""Training prompts that leave no room for a response, in a run with real services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_stack import Stack, run, stack, write_tasks

from shared.errors import DataError
from shared.inference_client import InferenceClient
from shared.protocol import Message, Task
from shared.settings import Settings
from trainer.long_prompts import leave_out_long
from trainer.tasks import TaskSet, load_tasks
from trainer.tasks.finite import FiniteTasks

CONTEXT = 1024


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("long"), tiny_model_directory, redis_url) as running:
        yield running


def left_of(tasks: TaskSet, settings: Settings) -> TaskSet:
    async def ask() -> TaskSet:
        async with InferenceClient(settings.inference, api_key=None) as inference:
            return await leave_out_long(tasks, inference, max_tokens=settings.rollout.max_tokens)

    return asyncio.run(ask())


def of_tokens(tokens: int) -> Task:
    """A prompt of so many tokens: one for each letter, and three of the template."""
    messages = [Message(role="user", content="x" * (tokens - 3))]
    return Task(id=f"t{tokens}", kind="bytes", messages=messages)


def test_a_run_never_meets_a_prompt_that_leaves_no_room(services: Stack) -> None:
    tasks = write_tasks(services.root / "some_long.jsonl", 3)
    long = {"id": "long", "kind": "bytes", "messages": [{"role": "user", "content": "x" * CONTEXT}]}
    tasks.write_text(tasks.read_text() + json.dumps(long) + "\n")
    settings = services.settings("some-long", tasks={"source": str(tasks)}, rollout={"prompts_per_step": 3})
    learner = run(settings)
    groups = [group for file in (learner.directory.path / "trajectories").iterdir() for group in _task_ids(file)]
    assert learner.step == 3 and sorted(set(groups)) == ["t0", "t1", "t2"]


def test_a_prompt_may_take_what_the_response_leaves_and_no_token_more(services: Stack) -> None:
    settings = services.settings("edge", rollout={"max_tokens": 24})
    tasks = [of_tokens(tokens) for tokens in (CONTEXT - 25, CONTEXT - 24, CONTEXT - 23, CONTEXT)]
    found = left_of(FiniteTasks(tasks, [tasks[3]], seed=0), settings)
    assert isinstance(found, FiniteTasks) and found.all_training == tasks[:2]
    assert found.held_out(9) == [tasks[3]]


def test_more_prompts_than_one_request_takes_are_all_counted(services: Stack) -> None:
    settings = services.settings("many")
    tasks = [of_tokens(CONTEXT if number % 7 == 0 else 10 + number) for number in range(300)]
    found = left_of(FiniteTasks(tasks, [], seed=0), settings)
    assert isinstance(found, FiniteTasks)
    assert found.all_training == [task for number, task in enumerate(tasks) if number % 7]


def test_where_none_is_left_that_is_one_sentence(services: Stack) -> None:
    settings = services.settings("none")
    sentence = r"1 of 1 training prompts leave no room for rollout\.max_tokens of 8 .* Lower"
    with pytest.raises(DataError, match=sentence) as caught:
        left_of(FiniteTasks([of_tokens(CONTEXT)], [], seed=0), settings)
    assert caught.value.field == "rollout.max_tokens"


def test_a_world_stays_as_it_is(services: Stack) -> None:
    settings = services.settings("world", tasks={"source": "builtin:rigid_math", "held_out": None})
    world = load_tasks(settings.tasks, seed=1)
    assert left_of(world, settings) is world


def _task_ids(file: Path) -> list[str]:
    return [json.loads(line)["task_id"] for line in file.read_text().splitlines()]
