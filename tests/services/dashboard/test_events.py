"""The stream of a run's events: new records as they are written, after the last that is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import running

from services.dashboard import events
from services.dashboard.app import create_app
from shared.settings import Settings
from tests.services.dashboard.a_run import a_run, do_step, evaluate

Event = tuple[str, Any, str | None]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(events, "POLL_S", 0.01)
    with running(create_app(Settings.model_validate({"run": {"dir": str(tmp_path)}}))) as url:
        yield url


@contextmanager
def stream(url: str, headers: dict[str, str] | None = None, **params: str) -> Iterator[Iterator[Event]]:
    """The events of run `demo`, as (type, data, id)."""
    with httpx.stream("GET", f"{url}/v1/runs/demo/events", headers=headers, params=params, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parsed(response.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line == "" and "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
        fields = {} if line == "" else fields | {name: value}


def until(found: Iterator[Event], kind: str) -> list[Event]:
    """The events up to the next of type `kind`."""
    seen = []
    for event in found:
        seen.append(event)
        if event[0] == kind:
            return seen
    raise AssertionError("the stream ended")


def steps(found: list[Event]) -> list[tuple[str, int]]:
    return [(kind, data["step"]) for kind, data, _ in found if kind in ("metrics", "timings")]


def test_what_is_appended_arrives_and_the_run_s_line_with_it(url: str, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    with stream(url) as found:
        first = until(found, "run")
        assert steps(first) == [("metrics", 0), ("timings", 0)] and first[-1][1]["steps_done"] == 1
        do_step(run, 1)
        more = until(found, "metrics")
        assert more[-1][1]["reward_mean"] == 0.1
        evaluate(run, 2, 0.75)
        while (line := until(found, "run")[-1][1])["student_accuracy"] != 0.75:
            pass
        assert line["steps_done"] == 2
        run.write_summary({})
        assert until(found, "run")[-1][1]["state"] == "finished"


def test_a_stream_goes_on_after_the_last_event_or_after_the_curves(url: str, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    position = httpx.get(f"{url}/v1/runs/demo/curves").json()["position"]
    with stream(url) as found:
        known = [event_id for _, _, event_id in until(found, "run") if event_id is not None][-1]
    assert known == position
    do_step(run, 1)
    for headers, after in (({"Last-Event-ID": known}, "0.0-0.0"), ({}, position)):
        with stream(url, headers, after=after) as found:
            assert steps(until(found, "run")) == [("metrics", 1), ("timings", 1)]


def test_a_run_that_was_resumed_says_that_its_records_begin_anew(url: str, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        do_step(run, step)
    with stream(url) as found:
        until(found, "run")
        run.forget_after(1)
        again = until(found, "replaced")
        assert again[-1][1] == {"file": "metrics"}
        assert steps(until(found, "metrics")) == [("metrics", 0)]


@pytest.mark.parametrize("known", ["", "x", "1.2", "-", "1.1-" + "9" * 30, "0.0-0.0-0.0"])
def test_an_id_that_is_none_of_ours_begins_at_the_start(url: str, tmp_path: Path, known: str) -> None:
    do_step(a_run(tmp_path), 0)
    with stream(url, {"Last-Event-ID": known}) as found:
        assert steps(until(found, "run")) == [("metrics", 0), ("timings", 0)]
