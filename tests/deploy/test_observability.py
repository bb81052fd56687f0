"""Prometheus' files and Grafana's board speak of what the services export, and Prometheus itself can evaluate them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from written_run import WrittenRun

from services.code_feedback.app import create_app as code_app
from services.critic_feedback.app import create_app as critic_app
from services.dashboard.app import create_app as dashboard_app
from services.dashboard.run_metrics import FIGURES, RunMetrics
from services.dashboard.runs import RunsFolder
from services.human_feedback.app import create_app as human_app
from services.inference.app import create_app as inference_app
from shared.settings import Settings
from tests.services.inference.inference_support import settings_for, wait_ready
from tests.serving import running

ROOT = Path(__file__).parents[2] / "deploy" / "observability"
PROMETHEUS = ROOT / "prometheus"
BOARD = runpy.run_path(str(ROOT / "board.py"))
JOBS = ("inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def queries() -> list[str]:
    """Every PromQL of the board and of the alerts, for all runs."""
    panels = [target["expr"] for panel in BOARD["board"]()["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    return [query.replace("$run", ".*") for query in (*panels, *(rule["expr"] for rule in rules))]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[dict[str, str]]:
    """Where each service answers, the dashboard with a run whose records have every figure."""
    folder = tmp_path_factory.mktemp("observed")
    run = WrittenRun(folder / "runs" / "demo")
    run.go_on(12, every_figure())
    sections = {"human_feedback": {"database": str(folder / "human.sqlite3")}, "run": {"dir": str(folder / "runs")}}
    settings = Settings.model_validate(sections)
    apps = {
        "inference": inference_app(settings_for(tiny_model_dir, folder)),
        "code-feedback": code_app(settings),
        "critic-feedback": critic_app(settings),
        "human-feedback": human_app(settings),
        "dashboard": dashboard_app(settings),
    }
    with ExitStack() as stack:
        found = {name: stack.enter_context(running(app)) for name, app in apps.items()}
        stack.enter_context(wait_ready(found["inference"]))
        yield found


def every_figure() -> dict[str, float]:
    lifts = {f"source/code/{rows}_lift_nats": value for rows, value in (("success", 1.5), ("failure", -0.5))}
    return {figure.key: 1.0 for figure in FIGURES if figure.kind != "evaluation"} | lifts


def exported(url: str) -> set[str]:
    """The names of the samples that a service has, or will have once something has happened."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").raise_for_status().text)
    return {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ("",))}


def test_every_metric_that_the_board_and_the_alerts_name_is_exported_by_a_service(urls: dict[str, str]) -> None:
    known = set().union(*(exported(url) for url in urls.values())) | {"up"}
    named = {name for query in queries() for name in re.findall(r"\b(?:vpd_\w+|process_\w+|up)\b", query)}
    assert len(named) > 25
    assert named <= known


def test_the_newest_figures_of_a_run_and_the_lift_of_its_sources_are_exported(urls: dict[str, str]) -> None:
    families = text_string_to_metric_families(httpx.get(f"{urls['dashboard']}/metrics").text)
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    run = ("run", "demo")
    assert samples["vpd_run_step", run] == 12
    assert samples["vpd_run_finished", run] == 0
    assert samples["vpd_run_student_accuracy", run] == 0.1
    assert samples["vpd_run_queue_waiting", run] == 1
    assert samples["vpd_run_source_lift_nats", ("rows", "success"), run, ("source", "code")] == 1.5


def test_a_run_that_was_not_written_to_for_an_hour_is_not_exported(tmp_path: Path) -> None:
    WrittenRun(tmp_path / "old").make_old(2 * 3600)
    WrittenRun(tmp_path / "new").go_on(1)
    families = list(RunMetrics(RunsFolder(tmp_path)).collect())
    assert {sample.labels["run"] for family in families for sample in family.samples} == {"new"}


def test_the_board_in_its_file_is_the_one_that_is_written_down() -> None:
    file = ROOT / "grafana" / "dashboards" / "vpd.json"
    assert json.loads(file.read_text()) == BOARD["board"](), "run: python deploy/observability/board.py"


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["board"]()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


# ------------------------------------------------------------------------------------------------ by Prometheus itself


def program(name: str) -> str:
    if (found := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed: it is in Debian's package prometheus")
    return found


@pytest.fixture(scope="module")
def prometheus(urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with our configuration, but for where the services are."""
    folder = tmp_path_factory.mktemp("prometheus")
    text = (PROMETHEUS / "prometheus.yml").read_text().replace("[alerts.yml]", f"[{PROMETHEUS}/alerts.yml]")
    for name, url in urls.items():
        text = re.sub(rf'"{name}:\d+"', json.dumps(url.removeprefix("http://")), text)
    (folder / "prometheus.yml").write_text(text.replace("interval: 5s", "interval: 1s"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://{address}/api/v1", timeout=30.0) as client:
        deadline = time.monotonic() + 60
        while (answering := scraped(client)) != set(JOBS):
            assert time.monotonic() < deadline, answering
            assert process.poll() is None
            time.sleep(0.1)
        yield client
    process.kill()
    process.wait()


def scraped(client: httpx.Client) -> set[str]:
    """The jobs whose figures Prometheus has stored."""
    try:
        found = client.get("/query", params={"query": "up == 1"}).json()["data"]["result"]
    except httpx.HTTPError:
        return set()
    return {one["metric"]["job"] for one in found}


def test_prometheus_evaluates_every_query_and_finds_every_figure_of_the_run(prometheus: httpx.Client) -> None:
    for query in queries():
        answer = prometheus.get("/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        if re.fullmatch(r"vpd_run_\w+\{.*\}|up", query):
            assert answer["data"]["result"], f"nothing for {query}"


def test_prometheus_has_loaded_the_alerts_and_none_is_wrong(prometheus: httpx.Client) -> None:
    (group,) = prometheus.get("/rules").json()["data"]["groups"]
    assert {rule["name"] for rule in group["rules"]} >= {"ServiceDown", "RunStuck", "QueueStuck", "Collapse"}
    assert [rule["lastError"] for rule in group["rules"] if rule.get("lastError")] == []


def test_alerts_fire_on_a_collapse_a_stuck_run_and_a_service_that_is_down_and_on_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "alerts.test.yml"
    file.write_text(yaml.safe_dump(CASES | {"rule_files": [str(PROMETHEUS / "alerts.yml")]}))
    done = subprocess.run([program("promtool"), "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _series(**values: str) -> list[dict[str, str]]:
    return [{"series": name if "{" in name else f'{name}{{run="demo"}}', "values": v} for name, v in values.items()]


def _fires(alert: str, at: str, **labels: str) -> dict[str, Any]:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    (summary,) = (rule["annotations"]["summary"] for rule in rules if rule["alert"] == alert)
    said = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], summary)
    expected = {"exp_labels": labels, "exp_annotations": {"summary": said}}
    return {"eval_time": at, "alertname": alert, "exp_alerts": [expected]}


def _quiet(alert: str, at: str) -> dict[str, Any]:
    return {"eval_time": at, "alertname": alert, "exp_alerts": []}


CASES: dict[str, Any] = {
    "evaluation_interval": "1m",
    "tests": [
        {
            "interval": "1m",
            "input_series": [
                *_series(vpd_run_student_accuracy="0.8x9 0.5 0.3x20", vpd_run_finished="0x30"),
                *_series(vpd_run_step="0+1x10 10x30", vpd_run_queue_waiting="3x40", vpd_run_step_seconds="60x40"),
                *_series(vpd_run_written_timestamp_seconds="0+60x10 600x30"),
                *_series(**{'up{job="inference"}': "1x10 0x30", 'up{job="dashboard"}': "1x40"}),
            ],
            "alert_rule_test": [
                _quiet("Collapse", "10m"),
                _fires("Collapse", "15m", run="demo"),
                _quiet("RunStuck", "19m"),
                _fires("RunStuck", "21m", run="demo"),
                _quiet("QueueStuck", "15m"),
                _fires("QueueStuck", "35m", run="demo"),
                _quiet("ServiceDown", "10m"),
                _fires("ServiceDown", "13m", job="inference"),
            ],
        }
    ],
}
