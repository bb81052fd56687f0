"""How many of a task's rollouts were judged, and how many of those succeeded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.protocol import Task
from trainer.evaluation.attempts import Attempts, Key, Who

_MOST_DOMAINS = 16


@dataclass(frozen=True)
class TaskCount:
    """Of `judged` rollouts of a task `succeeded` did. `unjudged` were wanted and have no outcome: never a failure."""

    task_id: str
    domain: str
    judged: int
    succeeded: int
    unjudged: int

    @property
    def share(self) -> float:
        """Needs a judged rollout."""
        return self.succeeded / self.judged


def count(tasks: Sequence[Task], attempts: Attempts, who: Who, *, samples: int) -> list[TaskCount]:
    """One for each task, in order; `samples` rollouts of each were wanted."""
    counts = []
    of_task = domains(tasks)
    for task in tasks:
        keys = [Key(who, task.id, sample) for sample in range(samples)]
        known = [v.success for key in keys if (v := attempts.verdicts.get(key)) is not None and v.success is not None]
        counts.append(TaskCount(task.id, of_task[task.id], len(known), sum(known), samples - len(known)))
    return counts


def wanted(tasks: Sequence[Task], whos: Sequence[Who], *, samples: int) -> list[Key]:
    """Every attempt of a whole evaluation."""
    return [Key(who, task.id, sample) for who in whos for task in tasks for sample in range(samples)]


def accuracy(counts: Sequence[TaskCount]) -> float | None:
    """avg@k: the mean over the tasks with an outcome of the share that succeeded; None where there is none."""
    shares = [one.share for one in counts if one.judged]
    return math.fsum(shares) / len(shares) if shares else None


def domains(tasks: Sequence[Task]) -> dict[str, str]:
    """By task id: what stands before the last hyphen of it (`sciknoweval-chemistry-1f0c`), or the task's kind.

    It is the kind where ids have no hyphen, or their beginnings would make more than `_MOST_DOMAINS` domains.
    """
    beginnings = {task.id: task.id.rpartition("-")[0] for task in tasks}
    distinct = set(beginnings.values())
    if "" in distinct or len(distinct) > _MOST_DOMAINS:
        return {task.id: task.kind for task in tasks}
    return beginnings
