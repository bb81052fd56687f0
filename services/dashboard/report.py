"""A run as one HTML file: no script, no request, inline styles, curves as SVG. It opens from a disk or a mail."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from services.dashboard.answers import GROUPS, run_detail
from services.dashboard.curves import Curve, Line, curves
from services.dashboard.runs import Rollout, RolloutQuery, RunFiles

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
WIDTH, HEIGHT = 520, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 10, 26
_EXAMPLES = 3
_MAX_CHARS = 4000
_MAX_POINTS = 400

_environment = Environment(
    loader=PackageLoader("services.dashboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


class Drawn(NamedTuple):
    """A line in the picture's own units, with what a reader who sees no picture is told."""

    line: Line
    points: str
    first: str
    last: str
    lowest: str
    highest: str


class Picture(NamedTuple):
    """A curve as SVG."""

    curve: Curve
    drawn: list[Drawn]
    ticks: list[tuple[float, str]]
    """Heights of horizontal lines, and their values."""
    x_first: int
    x_last: int


def html(run: RunFiles) -> str:
    """The report. Raises DataError where the directory holds no run."""
    detail = run_detail(run)
    metrics, timings, _ = run.records()
    pictures = [picture(curve) for curve in curves(metrics, timings, max_points=_MAX_POINTS)]
    ordered = sorted(pictures, key=lambda one: list(GROUPS).index(one.curve.group))
    return _environment.get_template("report.html.j2").render(
        run=detail,
        policy=POLICY,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        groups=[(GROUPS[group], list(some)) for group, some in groupby(ordered, key=lambda one: one.curve.group)],
        sources=run.sources(),
        examples=[
            ("Worst of the last steps", _examples(run, "worst")),
            ("Best of the last steps", _examples(run, "best")),
        ],
        settings=json.dumps(detail.settings, indent=2),
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        bottom=_BOTTOM,
        number=number,
    )


def picture(curve: Curve) -> Picture:
    """The curve's lines scaled into the picture; a shared range for all of them."""
    xs = [x for line in curve.lines for x in line.x]
    ys = [y for line in curve.lines for y in line.y]
    x_first, x_last, low, high = min(xs), max(xs), min(ys), max(ys)
    if low == high:
        low, high = low - 0.5, high + 0.5

    def across(x: int) -> float:
        return _LEFT + (x - x_first) / max(1, x_last - x_first) * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    drawn = [
        Drawn(
            line,
            " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(line.x, line.y, strict=True)),
            *(number(value) for value in (line.y[0], line.y[-1], min(line.y), max(line.y))),
        )
        for line in curve.lines
    ]
    ticks = [(down(value), number(value)) for value in (low, (low + high) / 2, high)]
    return Picture(curve, drawn, ticks, x_first, x_last)


def number(value: Any) -> str:
    """A number for people: four significant digits; anything else as it is."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _examples(run: RunFiles, sort: Any) -> list[Rollout]:
    lines = run.rollouts(RolloutQuery(sort=sort, limit=_EXAMPLES)).items
    found = [run.rollout(line.trajectory_id, line.step) for line in lines]
    return [_cut(rollout) for rollout in found if rollout is not None]


def _cut(rollout: Rollout) -> Rollout:
    said = [f.model_copy(update={"text": _short(f.text)}) for f in rollout.feedback]
    prompt = [m.model_copy(update={"content": _short(m.content)}) for m in rollout.prompt]
    return rollout.model_copy(update={"response": _short(rollout.response), "feedback": said, "prompt": prompt})


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= _MAX_CHARS:
        return text
    return f"{text[:_MAX_CHARS]}\n… {len(text) - _MAX_CHARS} characters more"
