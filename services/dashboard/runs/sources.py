"""What each feedback source did for a run, over some of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from services.dashboard.runs.rows import Entry, SaidEntry


class Lift(BaseModel):
    """The mean of log q(y|x,C) - log pi(y|x) of whole responses whose teacher prompt held the source's text."""

    nats: float | None = Field(description="None: there is no such rollout.", examples=[1.37])
    rollouts: int = Field(examples=[24])


class SourceFigures(BaseModel):
    """A row of the sources table. Late rollouts are left out but for the lift: their sources were asked before."""

    name: str = Field(examples=["code"])
    kind: str = Field(examples=["code"])
    answers: int = Field(description="How often it was asked.", examples=[1280])
    said: int = Field(description="Answers in words.", examples=[1210])
    share: float | None = Field(
        description="Of all rollouts of these steps, the share about which it said something in words.", examples=[0.95]
    )
    in_prompt: float | None = Field(
        description="Of all rollouts of these steps, the share whose M-step teacher prompt held its text. "
        "None: the run does not say.",
        examples=[0.93],
    )
    abstentions: int = Field(examples=[0])
    errors: int = Field(examples=[2])
    timeouts: int = Field(examples=[1])
    latency_p50_ms: float | None = Field(description="Of answers that are no failure.", examples=[42.0])
    latency_p95_ms: float | None = Field(description="Of answers that are no failure.", examples=[180.5])
    chars_mean: float | None = Field(description="Of what it said in words.", examples=[143.2])
    success_lift: Lift
    failure_lift: Lift
    e_step_lift_nats: float | None = Field(
        description="The same difference under the E-step's prompts, whose successes are shown what was said of them "
        "and no other success; the mean of its E-steps. None: it was not recorded.",
        examples=[1.8],
    )
    teacher_lift_nats: float | None = Field(
        description="success_lift - failure_lift: how much its text makes the teacher prefer successes. "
        "None: one of them is not known.",
        examples=[2.1],
    )


def figures(entries: Iterable[Entry], records: Sequence[Mapping[str, Any]] = ()) -> list[SourceFigures]:
    """A row for each source, those with most answers first; `records` are the metrics of the same steps."""
    rows = list(entries)
    fresh = [row for row in rows if not row.late]
    answers: dict[str, list[SaidEntry]] = {}
    for row in fresh:
        for said in row.said:
            answers.setdefault(said.name, []).append(said)
    for row in rows:
        for name in row.in_prompt or ():
            answers.setdefault(name, [])
    found = [_figures(name, said, rows, fresh, _e_step_lift(name, records)) for name, said in answers.items()]
    return sorted(found, key=lambda one: (-one.answers, one.name))


def _figures(
    name: str, said: Sequence[SaidEntry], rows: Sequence[Entry], fresh: Sequence[Entry], e_step_lift: float | None
) -> SourceFigures:
    words = [one.chars for one in said if one.status == "ok" and one.chars > 0]
    seconds = sorted(one.latency_ms for one in said if one.status in ("ok", "abstain") and one.latency_ms is not None)
    in_prompt = [row for row in fresh if row.in_prompt is not None]
    success, failure = (_lift(name, rows, wanted) for wanted in (True, False))
    known = success.nats is not None and failure.nats is not None
    return SourceFigures(
        name=name,
        kind=said[0].kind if said else "other",
        answers=len(said),
        said=len(words),
        share=len(words) / len(fresh) if fresh else None,
        in_prompt=sum(name in (row.in_prompt or ()) for row in in_prompt) / len(fresh) if in_prompt else None,
        abstentions=sum(one.status == "abstain" for one in said),
        errors=sum(one.status == "error" for one in said),
        timeouts=sum(one.status == "timeout" for one in said),
        latency_p50_ms=quantile(seconds, 0.5),
        latency_p95_ms=quantile(seconds, 0.95),
        chars_mean=sum(words) / len(words) if words else None,
        success_lift=success,
        failure_lift=failure,
        e_step_lift_nats=e_step_lift,
        teacher_lift_nats=(success.nats or 0.0) - (failure.nats or 0.0) if known else None,
    )


def _lift(name: str, rows: Sequence[Entry], success: bool) -> Lift:
    lifts = [
        row.lift for row in rows if row.lift is not None and row.success is success and name in (row.in_prompt or ())
    ]
    return Lift(nats=sum(lifts) / len(lifts) if lifts else None, rollouts=len(lifts))


def _e_step_lift(name: str, records: Sequence[Mapping[str, Any]]) -> float | None:
    keys = [f"source/{name}/e_step_{rows}_lift_nats" for rows in ("success", "failure")]
    both = [(r[keys[0]], r[keys[1]]) for r in records if all(r.get(key) is not None for key in keys)]
    return sum(success - failure for success, failure in both) / len(both) if both else None


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest of the ordered values that a share `q` of them does not exceed."""
    return values[max(0, math.ceil(q * len(values)) - 1)] if values else None
