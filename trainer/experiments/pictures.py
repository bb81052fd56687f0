"""Curves by arm as PNG: mean over seeds, with the 95 % interval as a band."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

COLOURS = ("#1f6feb", "#d9822b", "#2da44e", "#8250df", "#cf222e", "#57606a", "#bf8700", "#0a7f8c")


def accuracy_picture(conditions: Sequence[dict[str, Any]], *, teacher: bool) -> bytes:
    """Held-out accuracy of the student over rollouts, one plot a condition; the teacher's dashed if asked."""

    def draw(axes: Any, arm: dict[str, Any], colour: str) -> None:
        _draw(axes, arm["student"], colour, arm["label"], share=True)
        if teacher:
            _draw(axes, arm["teacher"], colour, None, share=True, style="--", band=False)

    return _picture(conditions, draw, "held-out accuracy", limits=(-0.02, 1.02))


def panel_picture(conditions: Sequence[dict[str, Any]], key: str) -> bytes:
    """A key of the step records over rollouts, one plot a condition."""

    def draw(axes: Any, arm: dict[str, Any], colour: str) -> None:
        if arm["panels"][key]:
            _draw(axes, arm["panels"][key], colour, arm["label"], share=False)

    return _picture(conditions, draw, key)


def _picture(
    conditions: Sequence[dict[str, Any]], draw: Any, ylabel: str, limits: tuple[float, float] | None = None
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(conditions))
    lines = -(-len(conditions) // columns)
    figure = Figure(figsize=(5.2 * columns + 0.6, 3.8 * lines), dpi=120, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in list(grid.flat)[len(conditions) :]:
        axes.set_visible(False)
    for axes, condition in zip(grid.flat, conditions, strict=False):
        for index, arm in enumerate(condition["arms"]):
            draw(axes, arm, COLOURS[index % len(COLOURS)])
        axes.set(xlabel="rollouts", ylabel=ylabel, title=condition["label"])
        if limits:
            axes.set_ylim(*limits)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    out = io.BytesIO()
    # Without the version in its metadata, the same figures give the same bytes.
    canvas.print_png(out, metadata={"Software": None})
    return out.getvalue()


def _draw(
    axes: Any,
    curve: Sequence[dict[str, Any]],
    colour: str,
    label: str | None,
    *,
    share: bool,
    style: str = "-",
    band: bool = True,
) -> None:
    x = [point["rollouts"] for point in curve]
    axes.plot(x, [point["mean"] for point in curve], style, color=colour, label=label, linewidth=1.6)
    known = [point for point in curve if point["low"] is not None]
    if band and known:
        lows = [max(0.0, p["low"]) if share else p["low"] for p in known]
        highs = [min(1.0, p["high"]) if share else p["high"] for p in known]
        axes.fill_between([p["rollouts"] for p in known], lows, highs, color=colour, alpha=0.18, linewidth=0)
