"""What the routes answer with about a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from services.dashboard.curated import Group
from services.dashboard.curves import Curve
from services.dashboard.runs import Rollout, RunFiles, SourceFigures
from shared.jsonl_tail import Record

State = Literal["running", "finished", "stopped"]
GROUPS: dict[Group, str] = {
    "eval": "Held-out evaluation",
    "train": "Training",
    "stability": "Stability",
    "throughput": "Throughput",
}


class RunLine(BaseModel):
    """A run in a list."""

    name: str = Field(examples=["demo"])
    run_id: str = Field(examples=["demo-1a2b3c"])
    algorithm: str = Field(examples=["vpd"])
    seed: int = Field(examples=[1])
    state: State = Field(
        description="finished: it has a summary. stopped: for long, two minutes or five steps, nothing was written.",
        examples=["running"],
    )
    steps_done: int = Field(examples=[12])
    steps: int | None = Field(description="How many it is to do.", examples=[80])
    student_accuracy: float | None = Field(description="Held out, the last that was measured.", examples=[0.61])
    teacher_accuracy: float | None = Field(description="Held out, the last that was measured.", examples=[0.55])
    reward_mean: float | None = Field(description="Of the last step.", examples=[0.4])
    eta_s: float | None = Field(description="Seconds left, as the learner guesses.", examples=[93.5])
    written_at: datetime = Field(description="When the learner wrote last.", examples=["2026-11-27T10:16:08Z"])


class RunList(BaseModel):
    """A part of the list of runs, the one that was written last first."""

    items: list[RunLine]
    next_cursor: str | None = Field(description="None: this is the last page.")


class RunDetail(RunLine):
    """A run with its settings and, once it is done, what it came to."""

    settings: dict[str, Any] | None = Field(examples=[{"run": {"name": "demo", "steps": 80}}])
    summary: dict[str, Any] | None = Field(examples=[{"accuracy_before": 0.0, "accuracy_after": 0.97}])
    rollout_steps: int = Field(description="Of how many steps there are rollouts to look at.", examples=[12])


class Curves(BaseModel):
    """The curated charts of a run."""

    groups: dict[str, str] = Field(examples=[GROUPS])
    curves: list[Curve]
    position: str = Field(
        description="Where the stream of events goes on: its `after`.", examples=["812.4096-813.2048"]
    )


class Sources(BaseModel):
    """The sources table."""

    steps: int = Field(description="Of how many steps.", examples=[20])
    items: list[SourceFigures]


class RolloutView(Rollout):
    """A rollout with everything that is known of it."""

    token_texts: list[str] | None = Field(
        description="The text of each token, in the order of `token_lift`; then what no token ends in. "
        "None: no teacher scored it, or the run is older than the token view.",
        examples=[["def", " solve"]],
    )
    lift_nats: float | None = Field(description="log q - log pi of the whole response.", examples=[-0.53])


class Siblings(BaseModel):
    """The rollouts of one prompt in a step, in the order they were sampled."""

    items: list[Rollout]


class Difference(BaseModel):
    """A value that two runs do not share."""

    name: str = Field(examples=["algorithm.name"])
    left: Any = Field(examples=["vpd"])
    right: Any = Field(examples=["grpo"])


class Comparison(BaseModel):
    """What two runs differ in."""

    left: RunLine
    right: RunLine
    settings: list[Difference]
    summary: list[Difference]


def run_line(run: RunFiles) -> RunLine:
    """Raises DataError where the directory holds no run any more."""
    identity, metrics, timings, settings = run.identity, run.metrics(), run.timings(), run.settings
    steps = [r for r in metrics if r["kind"] == "step"]
    evaluations = [r for r in metrics if r["kind"] == "evaluation"]
    last: Record = steps[-1] if steps else {}
    measured: Record = evaluations[-1] if evaluations else {}
    state = run.state()
    return RunLine(
        name=run.path.name,
        run_id=identity.run_id,
        algorithm=identity.algorithm,
        seed=identity.seed,
        state=state,
        steps_done=last.get("step", -1) + 1,
        steps=_planned(settings),
        student_accuracy=measured.get("student_accuracy"),
        teacher_accuracy=measured.get("teacher_accuracy"),
        reward_mean=last.get("reward_mean"),
        eta_s=timings[-1].get("eta_s") if timings and state == "running" else None,
        written_at=datetime.fromtimestamp(run.written_at, UTC),
    )


def run_detail(run: RunFiles) -> RunDetail:
    """Raises DataError where the directory holds no run any more."""
    return RunDetail(
        **run_line(run).model_dump(),
        settings=run.settings,
        summary=run.summary,
        rollout_steps=len(run.steps()),
    )


def comparison(left: RunFiles, right: RunFiles) -> Comparison:
    """Raises DataError where one of the directories holds no run any more."""
    return Comparison(
        left=run_line(left),
        right=run_line(right),
        settings=_differences(left.settings, right.settings),
        summary=_differences(left.summary, right.summary),
    )


def _planned(settings: Record | None) -> int | None:
    run = (settings or {}).get("run")
    steps = run.get("steps") if isinstance(run, dict) else None
    return steps if isinstance(steps, int) else None


def _differences(left: Record | None, right: Record | None) -> list[Difference]:
    one, other = _flat(left or {}), _flat(right or {})
    names = sorted(one.keys() | other.keys())
    return [
        Difference(name=name, left=one.get(name), right=other.get(name))
        for name in names
        if one.get(name) != other.get(name)
    ]


def _flat(tree: Record, prefix: str = "") -> Record:
    found: Record = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
