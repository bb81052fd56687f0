"""The report: one file that needs nothing else, in which texts are texts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.report import write_report
from services.dashboard.curves import Curve, Line
from services.dashboard.report import html, number, picture
from services.dashboard.runs import RunFiles
from shared.errors import DataError, InfrastructureError
from tests.services.dashboard.a_run import a_row, a_run, answer, do_step, evaluate, write_rows

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


class Tags(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_it_runs_no_script_and_asks_nobody_whatever_the_texts_are(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    evaluate(run, 0, 0.0)
    do_step(run, 0)
    row = a_row(run, 0, 0, 0, response=HOSTILE, reward=0.0, feedback=[answer(HOSTILE, HOSTILE)])
    write_rows(run, 0, [row | {"prompt": [{"role": HOSTILE, "content": HOSTILE}]}])
    run.write_summary({"accuracy_after": 0.5, "notes": [HOSTILE]})
    page = html(RunFiles(run.path))
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object"}
    names = {name for _, attributes in tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} and not names & {"src", "href"}
    assert "url(" not in page and "@import" not in page
    assert "{{ 7 * 7 }}" in page and page.count("&lt;script&gt;") >= 5


def test_it_has_the_curves_the_sources_and_the_settings(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        do_step(run, step)
    evaluate(run, 3, 0.625)
    page = html(RunFiles(run.path))
    for words in (
        "Held-out accuracy",
        "0.625",
        "Reward in training",
        "Feedback sources",
        "prompts_per_step",
        "3 of 8 steps",
    ):
        assert words in page
    assert page.count("<polyline") > 6


def test_a_line_is_drawn_within_its_picture_from_left_to_right() -> None:
    line = Line(name="n", kind="step", label="l", x=[1, 2, 5], y=[0.0, 4.0, 2.0])
    drawn = picture(Curve(key="k", title="t", group="train", unit="u", note="", metrics=[line], lines=[line]))
    points = [tuple(map(float, point.split(","))) for point in drawn.drawn[0].points.split()]
    assert points == [(56.0, 174.0), (169.5, 10.0), (510.0, 92.0)]
    assert [value for _, value in drawn.ticks] == ["0", "2", "4"]


def test_a_line_with_one_value_has_a_picture_too() -> None:
    line = Line(name="n", kind="step", label="l", x=[3], y=[1.0])
    drawn = picture(Curve(key="k", title="t", group="train", unit="u", note="", metrics=[line], lines=[line]))
    assert drawn.drawn[0].points == "56.0,92.0" and drawn.drawn[0].last == "1"


def test_numbers_are_short_and_what_is_none_is_said() -> None:
    assert [number(value) for value in (0.123456, 12, None, True, "vpd")] == ["0.1235", "12", "-", "True", "vpd"]


def test_the_command_writes_it_beside_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert write_report(run.path, None) == f"{run.path / 'report.html'} is written: open it in a browser."
    assert re.search(r"<title>Run demo</title>", (run.path / "report.html").read_text())
    with pytest.raises(InfrastructureError, match="cannot be written"):
        write_report(run.path, tmp_path / "nowhere" / "report.html")
    with pytest.raises(DataError, match="holds no run"):
        write_report(tmp_path, None)
