"""The curves that a person looks at, out of the hundred that a run records: each with what it tells and what is bad.

This is the one place that says what they are; the page, the report and the comparison draw them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

Group = Literal["eval", "train", "stability", "throughput"]
Kind = Literal["step", "evaluation", "gate", "timings"]


class Metric(BaseModel):
    """A line of a chart: the number `name` of the records of a kind."""

    name: str = Field(examples=["student_accuracy"])
    kind: Kind = Field(examples=["evaluation"])
    label: str = Field(examples=["student"])


class Chart(BaseModel):
    """A chart of the curated set."""

    key: str = Field(description="Its name in links.", examples=["accuracy"])
    title: str = Field(examples=["Held-out accuracy"])
    group: Group = Field(examples=["eval"])
    unit: str = Field(examples=["share"])
    note: str = Field(description="What it tells, and what is bad.", examples=["Rises while the student learns."])
    metrics: list[Metric]


def _chart(group: Group, key: str, title: str, unit: str, note: str, kind: Kind, **labels: str) -> Chart:
    """`labels`: metric names, with `__` for `/`, and what the lines are called."""
    metrics = [Metric(name=name.replace("__", "/"), kind=kind, label=label) for name, label in labels.items()]
    return Chart(key=key, title=title, group=group, unit=unit, note=note, metrics=metrics)


CHARTS = (
    _chart(
        "eval",
        "accuracy",
        "Held-out accuracy",
        "share",
        "What the run is for: the student, asked as users ask, on tasks it never trains on. Bad: the student stays "
        "flat below the teacher, or falls to half of its best (collapse).",
        "evaluation",
        student_accuracy="student",
        teacher_accuracy="teacher, told what was wrong",
    ),
    _chart(
        "eval",
        "gate",
        "Accuracy on prompts to be trained on",
        "share",
        "What the gate of the E-step goes by. Bad: the teacher falls, and the E-step is closed.",
        "gate",
        student_accuracy="student",
        teacher_accuracy="teacher",
    ),
    _chart(
        "train",
        "reward",
        "Reward in training",
        "0 to 1",
        "Of the rollouts that were trained on. Bad: it stays at 0, so that no rollout is a success, or it rises while "
        "held-out accuracy does not.",
        "step",
        reward_mean="mean reward",
        success_rate="share of successes",
    ),
    _chart(
        "train",
        "margin",
        "Implicit-reward margin",
        "reward",
        "How far the E-step's teacher rates successes above failures. Bad: it stays at or below 0, so that the teacher "
        "cannot tell them apart.",
        "step",
        e_step__margin="successes - failures",
    ),
    _chart(
        "train",
        "teacher_lift",
        "Teacher lift",
        "nats a response",
        "log q - log pi of whole responses under the M-step's prompts. Bad: failures are lifted as much as successes, "
        "so that distillation copies them.",
        "step",
        teacher__success_lift_nats="successes",
        teacher__failure_lift_nats="failures",
    ),
    _chart(
        "train",
        "margin_against_initial",
        "Margin against the initial model",
        "nats a response",
        "What the weights have learned about outcomes since the start. Bad: it stays at 0.",
        "step",
        diagnosis__initial_margin_nats="against the initial model",
        diagnosis__student_margin_nats="against the student now",
    ),
    _chart(
        "train",
        "rows",
        "Rollouts of a step",
        "rollouts",
        "Bad: few are trained on, many have no outcome (sources fail) or no context (nothing was said).",
        "step",
        rows_trained="trained on",
        rows_without_outcome="without outcome",
        rows_without_context="without context",
        rows_late="again, for late critique",
    ),
    _chart(
        "train",
        "e_step_loss",
        "E-step loss",
        "nats",
        "The binary loss of outcomes under the implicit reward. Bad: it stays at 0.69, which is guessing.",
        "step",
        e_step__loss="loss",
    ),
    _chart(
        "stability",
        "kl",
        "KL of student and teacher",
        "nats a token",
        "What distillation has left to do, and how far the student has moved from the policy that sampled. Bad: it "
        "grows step by step.",
        "step",
        m_step__kl="student and teacher",
        m_step__kl_to_sampler="student and sampler",
    ),
    _chart(
        "stability",
        "entropy",
        "Entropy of the student",
        "nats a token",
        "Bad: it falls to 0 early (nothing new is tried), or rises without end (the policy dissolves).",
        "step",
        m_step__entropy="entropy",
    ),
    _chart(
        "stability",
        "length",
        "Length of a response",
        "tokens",
        "Bad: it runs to the longest allowed, or collapses to nothing.",
        "step",
        m_step__length="mean",
    ),
    _chart(
        "stability",
        "grad_norm",
        "Gradient norm",
        "L2",
        "Before clipping. Bad: it jumps by orders of magnitude, or is 0.",
        "step",
        m_step__grad_norm="M-step",
        e_step__grad_norm="E-step",
    ),
    _chart(
        "stability",
        "importance",
        "Importance weights",
        "mean and share",
        "How far the policy that sampled is from the one that learns. Bad: the mean leaves 1, or many are capped.",
        "step",
        m_step__importance_mean="mean",
        m_step__importance_capped="share capped",
        m_step__clipped_share="share without gradient",
    ),
    _chart(
        "stability",
        "skipped",
        "Updates left out",
        "updates",
        "A gradient that is not finite is not applied. Bad: any that is not 0.",
        "step",
        m_step__skipped_updates="M-step",
        e_step__skipped_updates="E-step",
    ),
    _chart(
        "throughput",
        "tokens_per_s",
        "Throughput",
        "response tokens/s",
        "Of whole steps, waiting included. Bad: it falls while responses are as long as before.",
        "timings",
        tokens_per_s="tokens a second",
    ),
    _chart(
        "throughput",
        "seconds",
        "Where a step's time goes",
        "seconds",
        "Bad: the wait is most of it, so that the learner starves.",
        "timings",
        seconds__step="whole step",
        seconds__wait="waiting for rollouts",
        seconds__learn="learning",
        seconds__publish="publishing",
    ),
    _chart(
        "throughput",
        "lag",
        "Lag",
        "policy versions",
        "How old the policy is that sampled what a step learns from. Bad: it grows to the bound (rollout.max_lag).",
        "step",
        lag__mean="mean",
        lag__max="greatest",
    ),
    _chart(
        "throughput",
        "queue",
        "Queue",
        "prompt groups",
        "Bad: always empty (the learner starves) or always full (the collector waits).",
        "timings",
        queue__waiting="waiting",
        queue__pending="in work",
    ),
)
_SOURCE = "source/"
_LIFTS = {
    "success_lift_nats": "successes",
    "failure_lift_nats": "failures",
    "e_step_success_lift_nats": "successes, E-step",
    "e_step_failure_lift_nats": "failures, E-step",
}


def charts(names: Iterable[str]) -> list[Chart]:
    """The curated set, with a chart for each source that a run has figures of; `names` are the metrics it records."""
    return [
        *CHARTS,
        *(_lift_chart(source) for source in sorted(set(map(source_of, names)) - {None}, key=str) if source),
    ]


def source_of(name: str) -> str | None:
    """The source whose lift a metric is; None where it is another."""
    source, _, figure = name.removeprefix(_SOURCE).rpartition("/")
    return source if name.startswith(_SOURCE) and figure in _LIFTS and source else None


def _lift_chart(source: str) -> Chart:
    metrics = [Metric(name=f"{_SOURCE}{source}/{name}", kind="step", label=label) for name, label in _LIFTS.items()]
    return Chart(
        key=f"lift_of_{source}",
        title=f"Teacher lift of {source}",
        group="train",
        unit="nats a response",
        note="Responses whose teacher prompt held this source's text. Bad: successes are lifted no more than failures, "
        "so that its text teaches nothing.",
        metrics=metrics,
    )
