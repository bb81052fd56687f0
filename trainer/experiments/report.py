"""The report of an experiment: report.html (one self-contained page), report.json (every figure) and its pictures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.disk import disk_error, write_atomically
from trainer.experiments.figures import SHARE_OF_BEST, figures
from trainer.experiments.pictures import accuracy_picture, panel_picture
from trainer.experiments.plan import Plan
from trainer.experiments.results import read_results

Values = Mapping[str, Any]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1f2328}
table{border-collapse:collapse;margin:.6rem 0 1.2rem}
th,td{border-bottom:1px solid #d0d7de;padding:.3rem .7rem;text-align:left}
td+td{font-variant-numeric:tabular-nums}img{max-width:100%}pre{background:#f6f8fa;padding:1rem;overflow:auto}
.warn{background:#fff8c5;padding:.5rem 1rem}"""


def write_report(plan: Plan, *, file_text: str, command: str) -> Path:
    """Write the files below the experiment's directory; the page's path. Pictures: curves.png, and curves-KEY.png for
    each of the experiment's `panels`. Raises InfrastructureError where the disk cannot be written, DataError where a
    run's files hold no accuracy."""
    found = figures(plan, read_results(plan))
    teacher = plan.experiment.teacher_curve
    curves = accuracy_picture(found["conditions"], teacher=teacher)
    panels = {key: panel_picture(found["conditions"], key) for key in plan.experiment.panels}
    page = plan.directory / "report.html"
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        (plan.directory / "curves.png").write_bytes(curves)
        for key, picture in panels.items():
            (plan.directory / f"curves-{key.replace('/', '-')}.png").write_bytes(picture)
        write_atomically(plan.directory / "report.json", json.dumps({**found, "command": command}, indent=1) + "\n")
        write_atomically(page, "\n".join(_page(found, curves, panels, teacher, file_text, command)) + "\n")
    except OSError as error:
        raise disk_error(error, plan.directory) from error
    return page


def _page(
    found: Values, curves: bytes, panels: Mapping[str, bytes], teacher: bool, file_text: str, command: str
) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(found['title'])}</title>"
    yield f"<style>{_STYLE}</style><h1>{_text(found['title'])}</h1>"
    for part in ("question", "figure"):
        if found[part]:
            yield f"<p>{_text(found[part])}</p>"
    if found["missing"]:
        names = ", ".join(found["missing"])
        yield f"<p class=warn>{len(found['missing'])} runs are not done and not counted: {_text(names)}</p>"
    yield "<h2>Held-out accuracy</h2>"
    dashed = " Dashed: the teacher, told what was wrong." if teacher else ""
    yield f"<p>Mean over seeds; the band is Student's 95 % interval.{dashed}</p>"
    yield _image(curves, "Held-out accuracy over rollouts")
    for condition in found["conditions"]:
        yield from _condition(condition)
    for key, picture in panels.items():
        yield f"<h2>{_text(key)}</h2>{_image(picture, key)}"
    if found["search"]:
        yield from _search(found["search"])
    yield f"<h2>How it was made</h2><pre>{_text(command)}</pre><pre>{_text(file_text)}</pre></html>"


def _condition(condition: Values) -> Iterator[str]:
    yield f"<h2>{_text(condition['label'])}</h2>"
    heads = ["", "n", "final", "best", "area", f"rollouts to {SHARE_OF_BEST:.0%} of the best"]
    heads += ["collapsed", "optimizer steps", "minutes"]
    yield _table(heads, [_arm_cells(arm) for arm in condition["arms"]])
    if condition["threshold"] is not None:
        yield (
            f"<p>Area: mean held-out accuracy over the run. {SHARE_OF_BEST:.0%} of the best mean final accuracy is "
            f"{condition['threshold']:.3f}; a run that is never there counts with its whole length.</p>"
        )
    for arm in condition["arms"]:
        if arm["collapsed"]:
            yield f"<p class=warn>Collapsed: {_text(', '.join(arm['collapsed']))}</p>"
    if condition["pairs"]:
        yield "<ul>" + "".join(f"<li>{_text(pair_sentence(pair))}</li>" for pair in condition["pairs"]) + "</ul>"


def _arm_cells(arm: Values) -> list[str]:
    reaching = arm["rollouts_to_threshold"]
    never = f" ({reaching['never']} never)" if reaching and reaching["never"] else ""
    return [
        arm["label"],
        str(len(arm["seeds"])),
        *(interval(arm[key]) for key in ("final", "best", "area")),
        interval(reaching, "{:.0f}") + never,
        str(len(arm["collapsed"])) if arm["seeds"] else "",
        interval(arm["optimizer_steps"], "{:.0f}", bare=True),
        interval(arm["minutes"], "{:.1f}", bare=True),
    ]


def pair_sentence(pair: Values) -> str:
    """What the areas under two arms' curves say."""
    one, other = pair["labels"]
    if pair["overlap"] is None:
        return f"{one} and {other}: no two intervals to compare (fewer than two seeds are done)."
    verdict = "overlap" if pair["overlap"] else "do not overlap"
    a, b = (interval(area) for area in pair["areas"])
    paired = pair["difference"]
    difference = f" Difference by seed: {interval(paired, '{:+.3f}')}." if paired else ""
    return f"{one} {a} and {other} {b}: the 95 % intervals of the area {verdict}.{difference}"


def _search(searches: Sequence[Values]) -> Iterator[str]:
    yield "<h2>Learning rates</h2><p>Chosen on seeds of their own, by the best mean.</p>"
    rows = []
    for search in searches:
        for tried in search["rates"]:
            chosen = "chosen" if tried["rate"] == search["chosen"] else ""
            if chosen and search["ties"]:
                chosen += f" (the smallest of {search['ties'] + 1} that are equal)"
            if chosen and search["at_edge"]:
                chosen += ", at the edge of what was tried"
            shown = interval(tried["metric"]) or "not done"
            rows.append([search["condition"], search["arm"], f"{tried['rate']:g}", shown, chosen])
    yield _table(["condition", "arm", "learning rate", searches[0]["metric"], ""], rows)


def interval(estimate: Values | None, form: str = "{:.3f}", *, bare: bool = False) -> str:
    """`0.512 [0.480, 0.544]`; without the interval where there is none or `bare`; empty where nothing is known."""
    if not estimate:
        return ""
    mean = form.format(estimate["mean"])
    if bare or estimate["low"] is None:
        return mean
    return f"{mean} [{form.format(estimate['low'])}, {form.format(estimate['high'])}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line("th", heads) + "".join(line("td", row) for row in rows) + "</table>"


def _image(png: bytes, what: str) -> str:
    return f'<img alt="{_text(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _text(text: str) -> str:
    return html.escape(text)
