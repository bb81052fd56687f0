"""What finished runs come to, and the report about them."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import pytest
from experiments.experiment_files import SEARCH, finish, plan

from shared.errors import DataError
from trainer.experiments.figures import figures
from trainer.experiments.plan import Plan
from trainer.experiments.report import pair_sentence, write_report
from trainer.experiments.results import read_result, read_results
from trainer.experiments.search import choose, tried


@pytest.fixture
def done(tmp_path: Path) -> Plan:
    """VPD ends at .8 and 1.0, GRPO at .2 and 0 (after .4: it collapsed)."""
    found = plan(tmp_path / "e", panels=["e_step/margin"], teacher_curve=True)
    curves = {"vpd": ([0, 0.8, 0.8], [0, 0.8, 1.0]), "grpo": ([0, 0.1, 0.2], [0, 0.4, 0.0])}
    for arm, two in curves.items():
        for run, accuracies in zip(found.of("main", arm), two, strict=True):
            said = "Collapsed: ..." if accuracies[-1] < accuracies[-2] else None
            finish(found, run, accuracies, collapsed=said)
    return found


def _arms(found: Plan) -> dict[str, Any]:
    (condition,) = figures(found, read_results(found))["conditions"]
    return {arm["name"]: arm for arm in condition["arms"]}


def test_an_arms_figures_are_means_over_its_seeds(done: Plan) -> None:
    arms = _arms(done)
    assert arms["vpd"]["final"]["mean"] == pytest.approx(0.9) and arms["vpd"]["final"]["n"] == 2
    # Two values d apart: half width 12.706 d / 2.
    assert arms["vpd"]["final"]["high"] == pytest.approx(0.9 + 12.7062 * 0.1, abs=1e-4)
    assert arms["vpd"]["best"]["mean"] == pytest.approx(0.9)
    assert arms["vpd"]["area"]["mean"] == pytest.approx((0.6 + 0.65) / 2)
    assert arms["grpo"]["best"]["mean"] == pytest.approx(0.3)
    assert arms["vpd"]["minutes"]["mean"] == 1.5


def test_rollouts_to_the_threshold_count_a_run_that_never_is_there_with_its_length(done: Plan) -> None:
    # 80 % of .9 is .72; a step has 16 x 8 rollouts.
    arms = _arms(done)
    assert arms["vpd"]["rollouts_to_threshold"]["mean"] == 5 * 128
    assert arms["vpd"]["rollouts_to_threshold"]["never"] == 0
    assert arms["grpo"]["rollouts_to_threshold"]["mean"] == 10 * 128
    assert arms["grpo"]["rollouts_to_threshold"]["never"] == 2


def test_there_is_no_threshold_where_nobody_learned_anything(tmp_path: Path) -> None:
    found = plan(tmp_path / "e")
    for run in found.runs:
        finish(found, run, [0, 0, 0])
    assert {arm["rollouts_to_threshold"] for arm in _arms(found).values()} == {None}


def test_a_run_that_collapsed_is_named(done: Plan) -> None:
    arms = _arms(done)
    assert (arms["vpd"]["collapsed"], arms["grpo"]["collapsed"]) == ([], ["main-grpo-s2"])


@pytest.mark.parametrize(("said", "expected"), [(None, False), ("Collapsed: ...", True)])
def test_whether_a_run_collapsed_is_what_its_summary_says(tmp_path: Path, said: Any, expected: bool) -> None:
    found = plan(tmp_path)
    finish(found, found.runs[0], [0, 0.8, 0.1], collapsed=said)
    result = read_result(found.runs[0], found.path(found.runs[0]))
    assert result is not None and result.collapsed is expected


def test_curves_are_over_rollouts_with_a_mean_at_every_place(done: Plan) -> None:
    curve = _arms(done)["vpd"]["student"]
    assert [point["rollouts"] for point in curve] == [0, 640, 1280]
    assert [point["mean"] for point in curve] == pytest.approx([0, 0.8, 0.9])
    margins = _arms(done)["vpd"]["panels"]["e_step/margin"]
    assert [(p["rollouts"], p["mean"]) for p in margins] == [(128 * k, float(k)) for k in range(10)]


def test_runs_that_are_not_done_are_named_and_not_counted(done: Plan) -> None:
    (done.path(done.of("main", "vpd")[1]) / "summary.json").unlink()
    found = figures(done, read_results(done))
    assert found["missing"] == ["main-vpd-s2"]
    assert _arms(done)["vpd"]["final"] == {"mean": 0.8, "low": None, "high": None, "n": 1}


def test_a_run_without_any_judged_rollout_is_refused(tmp_path: Path) -> None:
    found = plan(tmp_path)
    finish(found, found.runs[0], [0, 0])
    (found.path(found.runs[0]) / "metrics.jsonl").write_text('{"kind": "evaluation", "step": 0}\n')
    with pytest.raises(DataError, match="main-vpd-s1 holds no held-out accuracy"):
        read_results(found)


def _searched(tmp_path: Path, by_rate: dict[float, list[list[float]]]) -> Plan:
    found = plan(tmp_path, search=SEARCH)
    for rate, curves in by_rate.items():
        runs = [run for run in found.searched(("main", "vpd")) if run.rate == rate]
        for run, accuracies in zip(runs, curves, strict=False):
            said = "Collapsed: ..." if accuracies[-1] < accuracies[-2] else None
            finish(found, run, accuracies, collapsed=said)
    return found


def test_a_search_chooses_the_rate_with_the_best_mean(tmp_path: Path) -> None:
    found = _searched(tmp_path, {1e-3: [[0, 1], [0, 0]], 2.5e-4: [[0, 0.6], [0, 0.6]]})
    rates = tried(found, ("main", "vpd"), read_results(found))
    assert [(t.rate, t.metric.mean) for t in rates if t.metric] == [(2.5e-4, pytest.approx(0.3)), (1e-3, 0.25)]
    assert choose(rates) == 2.5e-4


def test_a_rate_with_a_run_missing_is_not_chosen(tmp_path: Path) -> None:
    found = _searched(tmp_path, {1e-3: [[0, 1]], 2.5e-4: [[0, 0.1], [0, 0.1]]})
    assert choose(tried(found, ("main", "vpd"), read_results(found))) == 2.5e-4
    assert choose([]) is None


def test_pairs_say_whether_intervals_overlap(done: Plan) -> None:
    (condition,) = figures(done, read_results(done))["conditions"]
    (pair,) = condition["pairs"]
    # Two seeds only: VPD .625 +- .318, GRPO .15 +- .635.
    assert pair["overlap"] is True
    assert "overlap" in pair_sentence(pair) and "do not overlap" not in pair_sentence(pair)
    assert pair["difference"]["mean"] == pytest.approx(0.475) and pair["difference"]["n"] == 2


def test_the_report_is_one_page_that_needs_no_other_file(done: Plan) -> None:
    page = write_report(done, file_text="question = '<b>&'", command="vpd experiment e")
    text = page.read_text()

    class Sources(html.parser.HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.found += [value for key, value in attrs if key in ("src", "href")]

    parser = Sources()
    parser.feed(text)
    assert len(parser.found) == 2 and all(source.startswith("data:image/png;base64,") for source in parser.found)
    assert "question = &#x27;&lt;b&gt;&amp;&#x27;" in text and "<b>" not in text
    assert "main-grpo-s2" in text and "0.900" in text and "vpd experiment e" in text
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    assert len(pictures) == 2 and pictures[1] == "curves.png" and pictures[0].startswith("curves-")
    assert all((page.parent / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert json.loads((page.parent / "report.json").read_text())["conditions"][0]["arms"][0]["name"] == "vpd"


def test_the_same_runs_give_the_same_report(done: Plan) -> None:
    page = write_report(done, file_text="", command="")
    before = page.read_bytes(), (page.parent / "curves.png").read_bytes()
    write_report(done, file_text="", command="")
    assert (page.read_bytes(), (page.parent / "curves.png").read_bytes()) == before


def test_a_report_can_be_written_before_anything_is_done(tmp_path: Path) -> None:
    text = write_report(plan(tmp_path, search=SEARCH), file_text="", command="").read_text()
    assert "12 runs are not done" in text and "not done</td>" in text
