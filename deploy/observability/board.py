"""Writes the Grafana board beside this file, grafana/dashboards/vpd.json: `python deploy/observability/board.py`.

The panels are the list below. What they draw is what the services' /metrics have; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "grafana" / "dashboards" / "vpd.json"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 7
_RUN = '{run=~"$run"}'


class Panel(NamedTuple):
    """A chart: what is bad in it stands in `note`. `queries` are PromQL by legend."""

    title: str
    unit: str
    note: str
    queries: dict[str, str]
    kind: str = "timeseries"


def _of_run(**gauges: str) -> dict[str, str]:
    """`gauges`: legends and names without their prefix; the legend gets the run's name."""
    return {f"{{{{run}}}} {legend}": f"vpd_run_{gauge}{_RUN}" for legend, gauge in gauges.items()}


def _rate(counter: str, by: str) -> dict[str, str]:
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({counter}[1m]))"}


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Does it learn?": (
        Panel("Step", "short", "Steps done.", _of_run(done="step", of="steps"), kind="stat"),
        Panel("Time left", "s", "As the learner guesses.", _of_run(left="remaining_seconds"), kind="stat"),
        Panel("Alerts", "short", "Rules of prometheus/alerts.yml that fire now.", {}, kind="alertlist"),
        Panel(
            "Held-out accuracy",
            "percentunit",
            "What the run is for. Bad: the student stays flat below the teacher, or falls to half of its best.",
            _of_run(student="student_accuracy", teacher="teacher_accuracy"),
        ),
        Panel(
            "Reward in training",
            "none",
            "Bad: it stays at 0, or rises while held-out accuracy does not.",
            _of_run(reward="reward_mean", success="success_rate"),
        ),
        Panel(
            "Teacher lift of each source",
            "none",
            "log q - log pi in nats, successes above failures. Bad: at or below 0, so that the source's text teaches "
            "nothing.",
            {
                "{{run}} {{source}}": 'vpd_run_source_lift_nats{run=~"$run",rows="success"} - on (run, source) '
                'vpd_run_source_lift_nats{run=~"$run",rows="failure"}'
            },
        ),
        Panel(
            "Implicit-reward margin",
            "none",
            "How far the teacher rates successes above failures. Bad: it stays at or below 0.",
            _of_run(margin="margin"),
        ),
        Panel(
            "Rollouts of a step",
            "none",
            "Bad: few are trained on, or many have no outcome because their source fails.",
            _of_run(all="rows", trained="rows_trained", without_outcome="rows_without_outcome"),
        ),
    ),
    "Is it stable?": (
        Panel("KL of student and teacher", "none", "Nats a token. Bad: it grows.", _of_run(KL="kl_nats")),
        Panel("Entropy", "none", "Nats a token. Bad: 0 early, or no end of rising.", _of_run(entropy="entropy_nats")),
        Panel("Response length", "none", "Tokens. Bad: it runs to the limit.", _of_run(length="response_tokens")),
        Panel("Gradient norm", "none", "Bad: jumps by orders of magnitude.", _of_run(norm="gradient_norm")),
    ),
    "Does it keep up?": (
        Panel("Tokens a second", "none", "Of whole steps.", _of_run(tokens="tokens_per_second")),
        Panel(
            "Time of a step",
            "s",
            "Bad: the wait is most of it, so that the learner starves.",
            _of_run(step="step_seconds", waiting="wait_seconds"),
        ),
        Panel("Lag", "none", "Versions. Bad: at its bound all the time.", _of_run(lag="policy_lag")),
        Panel(
            "Queue",
            "none",
            "Prompt groups. Bad: always empty, or always full.",
            _of_run(waiting="queue_waiting", in_work="queue_pending"),
        ),
        Panel(
            "Inference",
            "none",
            "Tokens sampled a second, and requests in the engine.",
            {
                "tokens/s": "rate(vpd_response_tokens_total[1m])",
                "running": "vpd_engine_running",
                "waiting": "vpd_engine_waiting",
            },
        ),
        Panel("Sandbox", "none", "Programs waiting or running.", {"programs": "vpd_code_feedback_waiting"}),
    ),
    "Services": (
        Panel("Up", "short", "1: it answers.", {"{{job}}": "up"}),
        Panel("Requests a second", "reqps", "By service.", _rate("vpd_http_requests_total", "job")),
        Panel(
            "Failures a second",
            "reqps",
            "Answers of 500 and above.",
            _rate('vpd_http_requests_total{status=~"5.."}', "job"),
        ),
        Panel(
            "Time to answer, p95",
            "s",
            "By service.",
            {"{{job}}": "histogram_quantile(0.95, sum by (job, le) (rate(vpd_http_request_seconds_bucket[1m])))"},
        ),
        Panel("Memory", "bytes", "Resident, by service.", {"{{job}}": "process_resident_memory_bytes"}),
        Panel("Processor", "none", "Cores in use.", {"{{job}}": "rate(process_cpu_seconds_total[1m])"}),
    ),
}


def board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return {
        "uid": "vpd",
        "title": "VPD",
        "description": "A run and its services. What each panel tells: docs/observability.md.",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "tags": ["vpd"],
        "templating": {"list": [_run_variable()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), start=1)],
    }


def _run_variable() -> dict[str, Any]:
    query = "label_values(vpd_run_step, run)"
    return {
        "name": "run",
        "label": "run",
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "run"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    y = 0
    for title, panels in SECTIONS.items():
        yield {"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}}
        y += 1
        across = _COLUMNS // _WIDTH
        for index, panel in enumerate(panels):
            place = {"x": index % across * _WIDTH, "y": y + index // across * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            yield _drawn(panel, place)
        y += -(-len(panels) // across) * _HEIGHT


def _drawn(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    drawn = {"type": panel.kind, "title": panel.title, "description": panel.note, "gridPos": place}
    if panel.kind == "alertlist":
        states = {"firing": True, "pending": True, "noData": False, "normal": False, "error": True}
        return {**drawn, "options": {"datasource": "Prometheus", "stateFilter": states, "viewMode": "list"}}
    return {
        **drawn,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(board(), indent=1) + "\n")
