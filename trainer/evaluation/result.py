"""What an evaluation came to, as a JSON document; two of them can be compared, task by task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import DataError, SettingsError
from shared.protocol import Task
from trainer.evaluation.attempts import Attempts, Key, Who
from trainer.evaluation.counts import TaskCount, count
from trainer.evaluation.figures import Figure, figure, pass_at_k
from trainer.evaluation.identity import Identity, digest

Strata = Sequence[Sequence[TaskCount]]
_SEED = 0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupFigures(_Part):
    """Of some tasks. `avg` is avg@k with k the samples of a task; `pass_at` has pass@k by k, of the tasks with at least
    k judged rollouts. `truncated` is the share of rollouts that ended at the token limit, `tokens` their mean length,
    `informed` the share whose prompt held a context (teacher only). None: there was no such rollout."""

    tasks: int
    judged: int
    unjudged: int
    avg: Figure | None
    pass_at: dict[int, Figure | None]
    truncated: float | None
    tokens: float | None
    informed: float | None = None


class WhoFigures(_Part):
    """`mean_of_domains` gives each domain the same weight, whatever its number of tasks; None for a single domain.

    `unjudged` counts why rollouts have no outcome: the source failed (infra), cannot judge them or the prompt was
    refused (data), or abstained.
    """

    all: GroupFigures
    mean_of_domains: GroupFigures | None
    domains: dict[str, GroupFigures]
    unjudged: dict[Literal["infra", "data", "abstained"], int]


class Counts(_Part):
    """Of one task: enough to make every figure again."""

    domain: str
    judged: int
    succeeded: int


class Result(_Part):
    """`teacher` is None where it was not asked; `teacher_gain` is its avg@k minus the student's, over tasks."""

    digest: str
    identity: Identity
    samples: int
    student: WhoFigures
    teacher: WhoFigures | None
    teacher_gain: Figure | None
    counts: dict[Who, dict[str, Counts]]

    @property
    def nothing_judged(self) -> bool:
        return self.student.all.avg is None


class Comparison(_Part):
    """Paired differences, the second minus the first, over the tasks that both have outcomes for."""

    student: Figure | None
    teacher: Figure | None
    domains: dict[str, Figure | None]
    only_in_one: int


def make_result(identity: Identity, tasks: Sequence[Task], attempts: Attempts, ks: Sequence[int]) -> Result:
    """The figures of what `attempts` holds. Seeded: the same attempts give the same intervals."""
    samples = identity["sampling"]["samples"]
    asked: list[Who] = ["student"] if identity["teacher"]["told"] == "none" else ["student", "teacher"]
    counts = {who: count(tasks, attempts, who, samples=samples) for who in asked}
    figures = {who: _figures(who, counts[who], attempts, samples, ks) for who in asked}
    by_task = {who: {one.task_id: _counts(one) for one in counts[who]} for who in asked}
    return Result(
        digest=digest(identity),
        identity=identity,
        samples=samples,
        student=figures["student"],
        teacher=figures.get("teacher"),
        teacher_gain=_gain(by_task["student"], by_task["teacher"]) if "teacher" in asked else None,
        counts=by_task,
    )


def compare(first: Result, second: Result) -> Comparison:
    """Raises SettingsError where they have no task in common."""
    one, other = first.counts["student"], second.counts["student"]
    shared = one.keys() & other.keys()
    if not shared:
        raise SettingsError("The two evaluations have no task in common, so there is nothing to compare.")
    domains = sorted({one[task].domain for task in shared})
    within = {name: {task: counts for task, counts in one.items() if counts.domain == name} for name in domains}
    teachers = [result.counts.get("teacher", {}) for result in (first, second)]
    return Comparison(
        student=_gain(one, other),
        teacher=_gain(*teachers),
        domains={name: _gain(counts, other) for name, counts in within.items()},
        only_in_one=len(one.keys() ^ other.keys()),
    )


def read_result(file: Path) -> Result:
    """Raises SettingsError where it cannot be read, DataError where it is no result."""
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The result {file} cannot be read: {error.strerror}.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no result of `vpd eval`: give its result.json, or what --out wrote.") from error


def as_json(result: Result | Comparison) -> str:
    """The document, keys in order of declaration."""
    return json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


# ----------------------------------------------------------------------------------------------------------- figures


def _figures(who: Who, counts: Sequence[TaskCount], attempts: Attempts, samples: int, ks: Sequence[int]) -> WhoFigures:
    domains = {name: [one for one in counts if one.domain == name] for name in sorted({c.domain for c in counts})}

    def of(strata: Strata) -> GroupFigures:
        return _group(who, strata, attempts, samples, ks)

    return WhoFigures(
        all=of([counts]),
        mean_of_domains=of(list(domains.values())) if len(domains) > 1 else None,
        domains={name: of([members]) for name, members in domains.items()},
        unjudged=_unjudged(who, counts, attempts, samples),
    )


def _group(who: Who, strata: Strata, attempts: Attempts, samples: int, ks: Sequence[int]) -> GroupFigures:
    counts = [one for stratum in strata for one in stratum]
    keys = [Key(who, one.task_id, sample) for one in counts for sample in range(samples)]
    written = [attempts.rollouts[key] for key in keys if key in attempts.rollouts]
    return GroupFigures(
        tasks=len(counts),
        judged=sum(one.judged for one in counts),
        unjudged=sum(one.unjudged for one in counts),
        avg=_figure(strata, lambda one: one.share, least=1),
        pass_at={k: _pass_at(strata, k) for k in ks} if who == "student" else {},
        truncated=_mean([one.finish_reason == "length" for one in written]),
        tokens=_mean([one.tokens for one in written]),
        informed=_mean([one.informed for one in written]) if who == "teacher" else None,
    )


def _pass_at(strata: Strata, k: int) -> Figure | None:
    return _figure(strata, lambda one: pass_at_k(one.judged, one.succeeded, k), least=k)


def _figure(strata: Strata, value: Callable[[TaskCount], float], *, least: int) -> Figure | None:
    """Over the tasks with at least `least` judged rollouts; a domain with none such is left out."""
    values = [[value(one) for one in stratum if one.judged >= least] for stratum in strata]
    return figure([stratum for stratum in values if stratum], seed=_SEED)


def _unjudged(
    who: Who, counts: Sequence[TaskCount], attempts: Attempts, samples: int
) -> dict[Literal["infra", "data", "abstained"], int]:
    reasons: Counter[Literal["infra", "data", "abstained"]] = Counter()
    for one in counts:
        for sample in range(samples):
            verdict = attempts.verdicts.get(Key(who, one.task_id, sample))
            # Without a verdict: the teacher is not asked about an attempt whose own verdict failed to come.
            reason = "infra" if verdict is None else verdict.why_unjudged
            if reason is not None:
                reasons[reason] += 1
    return {reason: reasons[reason] for reason in ("infra", "data", "abstained")}


def _gain(first: Mapping[str, Counts], second: Mapping[str, Counts]) -> Figure | None:
    """The mean over the tasks that both have outcomes for of the second's share minus the first's."""
    both = [(first[task], second[task]) for task in first if task in second]
    shares = [b.succeeded / b.judged - a.succeeded / a.judged for a, b in both if a.judged and b.judged]
    return figure([shares], seed=_SEED)


def _counts(one: TaskCount) -> Counts:
    return Counts(domain=one.domain, judged=one.judged, succeeded=one.succeeded)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
