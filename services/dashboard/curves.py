"""The points of the curated charts, out of a run's records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import Field

from services.dashboard.curated import Chart, Metric, charts
from shared.jsonl_tail import Record


class Line(Metric):
    """A line with its points. `x` counts finished training steps: an evaluation at x measured the policy after them."""

    x: list[int] = Field(examples=[[0, 20, 40]])
    y: list[float] = Field(examples=[[0.0, 0.4, 0.8]])


class Curve(Chart):
    """A chart with its points; lines without any are left out."""

    lines: list[Line]


def curves(metrics: Sequence[Record], timings: Sequence[Record], *, max_points: int) -> list[Curve]:
    """The charts of which a run has recorded something. Of more points than `max_points`, means of neighbours."""
    by_kind = {kind: [r for r in metrics if r.get("kind") == kind] for kind in ("step", "evaluation", "gate")}
    by_kind["timings"] = list(timings)
    names = {name for record in by_kind["step"] for name in record}
    found = []
    for chart in charts(names):
        lines = [line for metric in chart.metrics if (line := _line(metric, by_kind[metric.kind], max_points)).x]
        if lines:
            found.append(Curve(**chart.model_dump(), lines=lines))
    return found


def _line(metric: Metric, records: Iterable[Record], max_points: int) -> Line:
    # A step's figures are known once it is done; an evaluation's step is how many were done before it.
    done = 1 if metric.kind in ("step", "timings") else 0
    points = [(r["step"] + done, float(r[metric.name])) for r in records if is_number(r.get(metric.name))]
    size = math.ceil(len(points) / max_points)
    parts = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    return Line(
        **metric.model_dump(),
        x=[part[-1][0] for part in parts],
        y=[sum(y for _, y in part) / len(part) for part in parts],
    )


def is_number(value: object) -> bool:
    """Whether a record's value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
