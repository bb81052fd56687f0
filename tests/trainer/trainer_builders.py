"""Small wire objects for the trainer's tests: trajectories, groups and feedback in one line each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from shared.protocol import Feedback, Message, Rollout, RolloutGroup, SourceInfo, Task, Trajectory, VersionSpan

RUN_ID = "test-0a1b2c"
Kind = Literal["code", "llm", "sibling", "human", "rule", "other"]


def said(text: str | None, *, name: str = "code", kind: Kind = "code", status: str = "ok") -> Feedback:
    """Feedback of one source; its trajectory does not matter to the reader."""
    return Feedback.model_validate(
        {
            "trajectory_id": "any",
            "feedback_id": f"any:{name}",
            "status": status,
            "text": text,
            "source": SourceInfo(name=name, kind=kind),
        }
    )


def trajectory(
    index: int = 0,
    *,
    group: str = f"{RUN_ID}-s000000-g000",
    text: str = "an attempt",
    success: bool | None = False,
    feedback: Sequence[Feedback] = (),
    token_ids: Sequence[int] | None = None,
    logprobs: Sequence[float] | None = None,
) -> Trajectory:
    ids = list(token_ids) if token_ids is not None else [10, 11, 12]
    return Trajectory(
        trajectory_id=f"{group}-r{index:02d}",
        rollout=Rollout(
            text=text,
            token_ids=ids,
            logprobs=list(logprobs) if logprobs is not None else [-1.0] * len(ids),
            finish_reason="stop",
            versions=[VersionSpan(version=0, start=0, end=len(ids))],
        ),
        feedback=list(feedback),
        reward=None if success is None else float(success),
        success=success,
    )


def group(trajectories: Sequence[Trajectory], *, index: int = 0, step: int = 0, question: str = "why?") -> RolloutGroup:
    """A group whose id is the prefix of its trajectories' ids."""
    return RolloutGroup(
        run_id=RUN_ID,
        group_id=trajectories[0].trajectory_id.rsplit("-r", 1)[0],
        step=step,
        policy_version=step,
        task=Task(id=f"task-{index}", kind="test", messages=[Message(role="user", content=question)]),
        prompt_token_ids=[3, *question.encode(), 1, 4],
        trajectories=list(trajectories),
    )


def random_groups(step: int, *, groups: int = 2, samples: int = 3, seed: int = 0) -> list[RolloutGroup]:
    """Seeded groups with mixed outcomes, feedback on failures, and responses of different lengths."""
    rng = random.Random(f"{seed}-{step}")
    made = []
    for g in range(groups):
        name = f"{RUN_ID}-s{step:06d}-g{g:03d}"
        rows = []
        for r in range(samples):
            ids = [rng.randrange(5, 261) for _ in range(rng.randint(2, 9))]
            success = (r + g + step) % 3 == 0
            rows.append(
                trajectory(
                    r,
                    group=name,
                    text=f"attempt {r}",
                    success=success,
                    feedback=[said("all is well" if success else f"line {r} of {g} is wrong")],
                    token_ids=ids,
                    logprobs=[-rng.uniform(3, 8) for _ in ids],
                )
            )
        made.append(group(rows, index=g, step=step, question=f"question {g} of {step}"))
    return made
