"""The rows of trajectories/step_N.jsonl: what is kept of each in memory, and what a row is when it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["ok", "abstain", "error", "timeout"]
EXCERPT_CHARS = 280


class _Row(BaseModel):
    """A row as it was written. What a later version adds is no error; what an earlier one lacked is unknown."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Source(_Row):
    """Who said it."""

    name: str = Field(examples=["code"])
    kind: str = Field(default="other", examples=["code"])
    version: str | None = Field(default=None, examples=["1"])


class Failure(_Row):
    """Why a source gave no answer."""

    message: str = ""


class Said(_Row):
    """What one source answered about a rollout."""

    feedback_id: str | None = Field(default=None, examples=["code-da28872d2618ecb702d30f1e"])
    status: Status = Field(examples=["ok"])
    reward: float | None = Field(default=None, examples=[0.0])
    success: bool | None = Field(default=None, examples=[False])
    text: str | None = Field(default=None, examples=["AttributeError: module 'lib' has no attribute 'double'"])
    source: Source
    error: Failure | None = None
    latency_ms: float | None = Field(default=None, examples=[50.6])


class Message(_Row):
    """A turn of the prompt."""

    role: str = Field(examples=["user"])
    content: str = Field(examples=["Write solve(x) with the module lib."])


class Rollout(_Row):
    """One row: what was asked, answered and said, and what the teacher saw.

    `token_ends` are offsets in code points of `response` where the text of each response token ends; `token_lift` is
    log q - log pi of each, in nats, under the M-step's teacher prompt. `feedback_in_prompt` names the sources whose
    text stood in that prompt. None: no teacher scored the row, or the run is older than the field.
    """

    trajectory_id: str = Field(examples=["demo-1a2b3c-s000003-g000-r00"])
    group_id: str = Field(examples=["demo-1a2b3c-s000003-g000"])
    task_id: str = Field(examples=["renamed_library-0-double5"])
    step: int = Field(examples=[3])
    late: bool = False
    policy_version: int = Field(examples=[3])
    prompt: list[Message] = Field(default_factory=list)
    response: str = Field(examples=["def solve(x):\n    return lib.double(x, 5)"])
    finish_reason: str = Field(default="stop", examples=["stop"])
    tokens: int = Field(default=0, examples=[12])
    reward: float | None = Field(default=None, examples=[0.0])
    success: bool | None = Field(default=None, examples=[False])
    feedback: list[Said] = Field(default_factory=list)
    m_step_teacher_prompt: str | None = None
    e_step_teacher_prompt: str | None = None
    feedback_chars_cut: int = 0
    token_ends: list[int] | None = None
    token_lift: list[float | None] | None = None
    feedback_in_prompt: list[str] | None = None

    @property
    def truncated(self) -> bool:
        """Whether the response was cut at its longest length."""
        return self.finish_reason == "length"


class SaidLine(BaseModel):
    """In a list: that a source answered, and whether in words."""

    name: str = Field(examples=["code"])
    status: Status = Field(examples=["ok"])
    chars: int = Field(examples=[142])


class RolloutLine(BaseModel):
    """A rollout in a list: everything but the long texts, of which the beginnings are shown."""

    trajectory_id: str = Field(examples=["demo-1a2b3c-s000003-g000-r00"])
    group_id: str = Field(examples=["demo-1a2b3c-s000003-g000"])
    task_id: str = Field(examples=["renamed_library-0-double5"])
    step: int = Field(examples=[3])
    late: bool
    policy_version: int = Field(examples=[3])
    reward: float | None = Field(examples=[0.0])
    success: bool | None = Field(examples=[False])
    truncated: bool
    tokens: int = Field(examples=[12])
    lift_nats: float | None = Field(description="log q - log pi of the whole response.", examples=[-0.53])
    feedback: list[SaidLine]
    prompt: str = Field(description="The beginning of the last message.")
    response: str = Field(description="The beginning of the response.")


class SaidEntry(NamedTuple):
    """What is kept in memory of one source's answer."""

    name: str
    kind: str
    status: Status
    latency_ms: float | None
    chars: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept in memory of a row, and where the row stands in its file."""

    trajectory_id: str
    group_id: str
    task_id: str
    step: int
    row: int
    late: bool
    policy_version: int
    reward: float | None
    success: bool | None
    truncated: bool
    tokens: int
    said: tuple[SaidEntry, ...]
    in_prompt: tuple[str, ...] | None
    lift: float | None
    offset: int
    length: int


def entry(rollout: Rollout, row: int, offset: int, length: int) -> Entry:
    """What is kept of a row that begins at byte `offset`."""
    return Entry(
        rollout.trajectory_id,
        rollout.group_id,
        rollout.task_id,
        rollout.step,
        row,
        rollout.late,
        rollout.policy_version,
        rollout.reward,
        rollout.success,
        rollout.truncated,
        rollout.tokens,
        tuple(
            SaidEntry(f.source.name, f.source.kind, f.status, f.latency_ms, len(f.text or "")) for f in rollout.feedback
        ),
        None if rollout.feedback_in_prompt is None else tuple(rollout.feedback_in_prompt),
        whole_lift(rollout.token_lift),
        offset,
        length,
    )


def whole_lift(lifts: Sequence[float | None] | None) -> float | None:
    """log q - log pi of the whole response, in nats: the sum over its tokens. None where a token has none."""
    known = [lift for lift in lifts or () if lift is not None]
    return sum(known) if known and len(known) == len(lifts or ()) else None


def line(entry: Entry, rollout: Rollout) -> RolloutLine:
    """A row as a list shows it."""
    return RolloutLine(
        trajectory_id=entry.trajectory_id,
        group_id=entry.group_id,
        task_id=entry.task_id,
        step=entry.step,
        late=entry.late,
        policy_version=entry.policy_version,
        reward=entry.reward,
        success=entry.success,
        truncated=entry.truncated,
        tokens=entry.tokens,
        lift_nats=entry.lift,
        feedback=[SaidLine(name=s.name, status=s.status, chars=s.chars) for s in entry.said],
        prompt=(rollout.prompt[-1].content if rollout.prompt else "")[:EXCERPT_CHARS],
        response=rollout.response[:EXCERPT_CHARS],
    )


def rollout_on(line: bytes) -> Rollout | None:
    """The row on a line of a file; None where there is none."""
    try:
        return Rollout.model_validate_json(line)
    except ValueError:
        return None
