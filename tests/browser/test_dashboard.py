"""The dashboard's page in a browser: curves that move, rollouts that are found again, hostile texts that do nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import Visitor, accessibility_problems, scrolls_sideways
from playwright.sync_api import Page, expect

from services.dashboard.app import create_app
from shared.settings import Settings
from tests.services.dashboard.a_run import a_row, a_run, answer, do_step, evaluate, write_rows

pytestmark = pytest.mark.browser
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&lt;b&gt; \u202e \x00 end"
LARGE = "x = 1  # words\n" * (200_000 // 15)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def url(visitor: Visitor, runs: Path) -> Iterator[str]:
    settings = Settings.model_validate({"api_key": "k3y", "run": {"dir": str(runs)}})
    with visitor.at(create_app(settings)) as url:
        yield url + "/"


def opened(visitor: Visitor, url: str, address: str, **options: Any) -> Page:
    """The page at an address, with what it shows."""
    page = visitor.open(f"{url}#key=k3y&{address}", **options)
    expect(page.locator("main[data-ready]")).to_be_attached()
    return page


def go(page: Page, address: str, ready: str) -> None:
    """Another view of the same page."""
    page.evaluate(
        "address => { document.querySelector('main').removeAttribute('data-ready'); location.hash = address; }", address
    )
    expect(page.locator(f"main[data-ready={ready}]")).to_be_attached()


def test_the_curves_move_while_a_run_goes_on(url: str, visitor: Visitor, runs: Path) -> None:
    run = a_run(runs)
    evaluate(run, 0, 0.0)
    page = opened(visitor, url, "run=demo")
    reward, accuracy = page.locator("[data-chart=reward]"), page.locator("[data-chart=accuracy]")
    expect(accuracy).to_have_attribute("data-points", "2")
    expect(reward).to_have_count(0)
    for step in range(3):
        do_step(run, step)
        # A chart of a figure that comes for the first time, then a point more for each step.
        expect(reward).to_have_attribute("data-points", str(step + 1))
        expect(page.locator("#progress")).to_contain_text(f"step {step + 1} of 8")
    before = page.locator("[data-chart=reward] canvas").evaluate("canvas => canvas.toDataURL()")
    do_step(run, 3, reward_mean=0.9, **{"e_step/margin": 0.5})
    expect(page.locator("[data-chart=margin]")).to_have_attribute("data-points", "1")
    expect(reward).to_have_attribute("data-points", "4")
    assert page.locator("[data-chart=reward] canvas").evaluate("canvas => canvas.toDataURL()") != before
    evaluate(run, 4, 0.75)
    expect(page.locator("dd").first).to_have_text("75.0 %")
    run.forget_after(1)
    expect(reward).to_have_attribute("data-points", "1")
    run.write_summary({"accuracy_after": 0.75})
    expect(page.locator("#state")).to_have_text("finished")


def test_the_figures_of_a_chart_are_a_table_too_that_goes_on_with_the_run(
    url: str, visitor: Visitor, runs: Path
) -> None:
    run = a_run(runs)
    do_step(run, 0, reward_mean=0.25)
    page = opened(visitor, url, "run=demo")
    chart = page.get_by_role("region", name="Reward in training")
    chart.get_by_text("Figures").press("Enter")
    expect(chart.locator("details tbody tr")).to_have_text(["10.25"])
    do_step(run, 1, reward_mean=0.5)
    expect(chart.locator("details tbody tr")).to_have_text(["10.25", "20.5"])


def test_rollouts_are_sorted_filtered_and_found_again_by_their_link(url: str, visitor: Visitor, runs: Path) -> None:
    run = a_run(runs)
    rows = [a_row(run, 0, g, r, reward=(3 * g + r) / 5) for g in range(2) for r in range(3)]
    rows[4]["feedback"] = [answer("critic", "Mind the sign.")]
    write_rows(run, 0, rows)
    page = opened(visitor, url, "run=demo&tab=rollouts&by=rollout")
    cards = page.locator(".list article")
    expect(cards).to_have_count(6)
    page.get_by_label("Sort").select_option("worst first")
    expect(cards.first).to_contain_text("reward 0")
    page.get_by_label("Sort").select_option("best first")
    expect(cards.first).to_contain_text("g001-r02")
    page.get_by_label("Source", exact=True).fill("critic")
    page.get_by_label("Source", exact=True).press("Enter")
    expect(cards).to_have_count(1)
    expect(page.locator("#found")).to_have_text("1 rollouts match; steps 0 to 0.")
    address = page.url
    page.reload()
    expect(cards).to_have_count(1)
    assert page.url == address and "source=critic" in address and "key" not in address
    cards.first.get_by_role("link").press("Enter")
    expect(page.get_by_text("Mind the sign.").first).to_be_visible()
    expect(page.locator(".siblings article")).to_have_count(3)
    permalink = page.url.partition("#")[2]
    other = opened(visitor, url, permalink)
    expect(other.locator("h2.id")).to_have_text(rows[4]["trajectory_id"])
    other.get_by_role("link", name="sibling after").press("Enter")
    expect(other.locator("h2.id")).to_have_text(rows[5]["trajectory_id"])


def test_a_prompt_shows_its_rollouts_and_leads_to_each(url: str, visitor: Visitor, runs: Path) -> None:
    do_step(a_run(runs), 0)
    page = opened(visitor, url, "run=demo&tab=rollouts&sort=best")
    expect(page.locator(".list article")).to_have_count(2)
    page.locator(".rewards a").nth(1).press("Enter")
    expect(page.locator("h2.id")).to_contain_text("-r01")


def test_a_token_is_coloured_by_its_lift_and_says_it_to_pointer_and_keyboard(
    url: str, visitor: Visitor, runs: Path
) -> None:
    run = a_run(runs)
    fields = {"response": "a bé c", "token_ends": [1, 4, 4, 6], "token_lift": [2.9, -1.6, 0.0, None]}
    write_rows(run, 0, [a_row(run, 0, 0, 0, **fields, feedback_in_prompt=["code"])])
    page = opened(visitor, url, f"run=demo&tab=rollouts&id={a_row(run, 0, 0, 0)['trajectory_id']}")
    tokens = page.locator(".tokens .token")
    assert tokens.all_text_contents() == ["a", " bé", " c"]
    assert [one.get_attribute("class") for one in tokens.all()] == ["token more-4", "token less-2", "token unknown"]
    grounds = [one.evaluate("node => getComputedStyle(node).backgroundColor") for one in tokens.all()]
    assert len(set(grounds)) == 3
    tokens.nth(1).hover()
    told = page.locator(".told")
    expect(told).to_contain_text("\u22121.6000 nats")
    page.locator(".tokens").focus()
    page.keyboard.press("ArrowLeft")
    expect(told).to_contain_text("+2.9000 nats")
    expect(page.get_by_text("stood in the teacher's prompt")).to_be_visible()
    expect(page.locator(".legend")).to_contain_text("more than the student")


def test_hostile_texts_are_inert_wherever_they_stand(url: str, visitor: Visitor, runs: Path) -> None:
    run = a_run(runs)
    row = a_row(run, 0, 0, 0, response=HOSTILE, m_step_teacher_prompt=HOSTILE, task_id=HOSTILE, reward=0.0)
    row |= {"prompt": [{"role": HOSTILE, "content": HOSTILE}], "feedback": [answer(HOSTILE, HOSTILE)]}
    row |= {"token_ends": [30, len(HOSTILE)], "token_lift": [1.0, 1.0], "feedback_in_prompt": [HOSTILE]}
    write_rows(run, 0, [row, a_row(run, 0, 0, 1) | {"response": HOSTILE}])
    run.record({"kind": "step", "step": 0, f"source/{HOSTILE}/success_lift_nats": 1.0})
    page = opened(visitor, url, "run=demo")
    expect(page.get_by_role("heading", name="Teacher lift of <script>")).to_be_visible()
    for tab in ("sources", "rollouts"):
        go(page, f"run=demo&tab={tab}", tab)
        expect(page.get_by_text("<script>window.hacked").first).to_be_visible()
    go(page, f"run=demo&tab=rollouts&id={row['trajectory_id']}", "rollout")
    assert page.locator(".tokens").text_content() == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main img").count() == 0


def test_a_completion_of_200_kb_is_shown_within_a_second_cut_with_a_button_for_the_rest(
    url: str, visitor: Visitor, runs: Path
) -> None:
    run = a_run(runs)
    ends = list(range(4, len(LARGE) + 4, 4))
    marked = {"token_ends": [*ends[:-1], len(LARGE)], "token_lift": [0.5] * len(ends)}
    rows = [a_row(run, 0, 0, r, response=LARGE, **(marked if r == 0 else {})) for r in range(2)]
    write_rows(run, 0, rows)
    page = opened(visitor, url, "run=demo")
    for row in rows:
        go(page, "run=demo&tab=sources", "sources")
        began = time.monotonic()
        go(page, f"run=demo&tab=rollouts&id={row['trajectory_id']}", "rollout")
        assert time.monotonic() - began < 1.0
    page.get_by_role("button", name="characters more").first.click()
    assert len(page.locator("section[aria-label=Response] pre").text_content() or "") == len(LARGE)


def test_two_runs_are_compared_in_one_picture_each(url: str, visitor: Visitor, runs: Path) -> None:
    for name, accuracy in (("one", 0.25), ("two", 0.5)):
        run = a_run(runs, name, rollout={"temperature": accuracy})
        do_step(run, 0)
        run.write_summary({"accuracy_after": accuracy})
    page = opened(visitor, url, "run=one&tab=compare&with=two")
    expect(page.get_by_role("row", name="rollout.temperature")).to_contain_text("0.250.5")
    expect(page.get_by_role("row", name="accuracy_after")).to_contain_text("0.250.5")
    expect(page.locator("[data-chart=reward]")).to_have_attribute("data-points", "2")


def test_the_report_is_downloaded_and_opens_from_the_disk_without_a_script(
    url: str, visitor: Visitor, runs: Path, tmp_path: Path
) -> None:
    run = a_run(runs)
    for step in range(3):
        do_step(run, step)
    write_rows(run, 3, [a_row(run, 3, 0, 0, response=HOSTILE, reward=0.0)])
    page = opened(visitor, url, "run=demo")
    with page.expect_download() as download:
        page.get_by_role("button", name="HTML report").click()
    assert download.value.suggested_filename == "demo.html"
    file = tmp_path / "demo.html"
    download.value.save_as(file)
    report = visitor.context().new_page()
    report.set_content(file.read_text())
    assert report.locator("svg polyline").count() > 4
    assert report.evaluate("window.hacked") is None and report.locator("script, img").count() == 0
    assert accessibility_problems(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_each_view_is_accessible_and_fits_its_window_in_both_themes(
    url: str, visitor: Visitor, runs: Path, scheme: Any, width: int
) -> None:
    run = a_run(runs)
    evaluate(run, 0, 0.1)
    lifts = {"token_ends": [3, 7, 9], "token_lift": [3.0, -3.0, 1.0], "feedback_in_prompt": ["code"]}
    for step in range(3):
        do_step(run, step)
        write_rows(run, step, [a_row(run, step, 0, r, **lifts) for r in range(8)])
    a_run(runs, "other")
    page = opened(visitor, url, "run=demo", color_scheme=scheme, viewport={"width": width, "height": 800})
    rollout = a_row(run, 0, 0, 0)["trajectory_id"]
    views = {"overview": "", "sources": "", "rollouts": "", "compare": "&with=other", "rollout": f"&id={rollout}"}
    for ready, more in views.items():
        go(page, f"run=demo&tab={'rollouts' if ready == 'rollout' else ready}{more}", ready)
        assert not scrolls_sideways(page), ready
        assert accessibility_problems(page) == [], ready


def test_a_service_that_goes_away_is_said_and_the_curves_go_on_when_it_is_back(
    url: str, visitor: Visitor, runs: Path
) -> None:
    visitor.expect_error("ERR_|Failed to fetch|net::")
    run = a_run(runs)
    do_step(run, 0)
    page = opened(visitor, url, "run=demo")
    expect(page.locator("#connection")).to_be_hidden()
    page.context.set_offline(True)
    do_step(run, 1)
    page.context.set_offline(False)
    expect(page.locator("[data-chart=reward]")).to_have_attribute("data-points", "2")


def test_before_any_run_the_page_says_how_to_start_one(url: str, visitor: Visitor) -> None:
    page = visitor.open(f"{url}#key=k3y")
    expect(page.locator("main")).to_contain_text("There is no run yet.")
