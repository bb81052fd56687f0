"""What the compose file must say: which settings reach which service, and who reaches an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.inference.vllm.server import command
from shared.load_settings import resolve_settings
from shared.settings import CodeFeedbackSettings, TrackingSettings, VLLMSettings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_every_setting_of_code_feedback_but_those_of_an_engine_reaches_its_container() -> None:
    """The service has no `.env` and, on purpose, no Docker engine."""
    handed = set(SERVICES["code-feedback"]["environment"])
    names = [name for name in CodeFeedbackSettings.model_fields if not name.startswith("docker_")]
    assert {f"VPD_CODE_FEEDBACK__{name.upper()}" for name in names} <= handed


def test_every_setting_of_trackers_reaches_the_learner() -> None:
    handed = {name for name in SERVICES["learner"]["environment"] if name.startswith("VPD_TRACKING__")}
    assert handed == {f"VPD_TRACKING__{name.upper()}" for name in TrackingSettings.model_fields}


OBSERVABILITY = {name: one for name, one in SERVICES.items() if one.get("profiles") == ["observability"]}


def test_prometheus_and_grafana_are_pinned_shut_in_and_published_on_this_machine_alone() -> None:
    assert set(OBSERVABILITY) == {"prometheus", "grafana"}
    for one in OBSERVABILITY.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", one["image"])
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert one["user"].split(":")[0] != "0"
        assert one["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])
        files = [mount for mount in one["volumes"] if mount.startswith(".")]
        assert files
        assert all(mount.endswith(":ro") for mount in files)


def test_what_prometheus_asks_is_every_service_with_metrics_on_a_network_they_share() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus" / "prometheus.yml").read_text())
    targets = [target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]]
    asked = dict(target.split(":") for target in targets)
    checked = {
        name: one["healthcheck"]["test"][-1]
        for name, one in SERVICES.items()
        if "/opt/vpd/healthcheck.py" in one.get("healthcheck", {}).get("test", ())
    }
    assert asked == checked
    networks = set(SERVICES["prometheus"]["networks"])
    assert all(networks & set(SERVICES[name]["networks"]) for name in asked)


def test_grafana_reaches_prometheus_and_no_service_of_the_stack() -> None:
    assert SERVICES["grafana"]["networks"] == ["observability"]
    assert {name for name, one in SERVICES.items() if "observability" in (one.get("networks") or ())} == {
        "prometheus",
        "grafana",
    }


def test_grafana_finds_what_its_files_name() -> None:
    mounts = {inside: outside for outside, inside, *_ in (m.split(":") for m in SERVICES["grafana"]["volumes"])}
    grafana = ROOT / "deploy" / "observability" / "grafana"
    provider = yaml.safe_load((grafana / "provisioning" / "dashboards" / "boards.yml").read_text())["providers"][0]
    assert (ROOT / mounts[provider["options"]["path"]] / "vpd.json").is_file()
    source = yaml.safe_load((grafana / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{provider['options']['path']}/vpd.json"


def test_every_setting_of_vllm_but_the_image_s_own_python_reaches_inference() -> None:
    # A name that is handed through without a value would take the image's value away.
    handed = {name for name in SERVICES["inference"]["environment"] if name.startswith("VPD_INFERENCE__VLLM__")}
    names = [name for name in VLLMSettings.model_fields if name != "python"]
    assert handed == {f"VPD_INFERENCE__VLLM__{name.upper()}" for name in names}


def test_the_engine_s_name_chooses_the_image_the_target_and_the_setting_and_each_choice_is_a_target() -> None:
    inference = SERVICES["inference"]
    chosen = "${VPD_INFERENCE__ENGINE:-vllm}"
    assert inference["image"] == f"vpd-inference-{chosen}"
    assert inference["build"]["target"] == f"inference-{chosen}"
    assert inference["environment"]["VPD_INFERENCE__ENGINE"] == chosen
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    assert {"inference-vllm", "inference-transformers"} <= targets
    assert {one["build"]["target"] for one in SERVICES.values() if "build" in one} - targets == {f"inference-{chosen}"}


INSTALLED = {
    "code-feedback": {"core"},
    "critic-feedback": {"core", "math"},
    "human-feedback": {"core"},
    "dashboard": {"core", "dashboard"},
    "collector": {"core", "data"},
    "learner": {"core", "model", "data", "tensorboard", "trackio", "wandb", "mlflow"},
    "inference-transformers": {"core", "model"},
    "inference-vllm": {"core", "text"},
}


@pytest.mark.parametrize("target", INSTALLED)
def test_an_image_holds_the_dependencies_of_its_service_and_no_others(target: str) -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    (dependencies,) = re.findall(r"^COPY --from=(\S+) /opt/venv /opt/venv$", stages[target], re.MULTILINE)
    assert set(re.findall(r"-r (\w+)\.txt", stages[dependencies])) == INSTALLED[target]


def test_the_parts_that_images_install_are_all_pinned() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (parts,) = re.findall(r"for part in ([\w ]+); do", text)
    for part in parts.split():
        command = [sys.executable, "docker/pins.py", part]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split()
        assert all("==" in pin for pin in done.stdout.splitlines())


def test_vllm_on_gpus_is_reached_by_inference_alone() -> None:
    vllm = SERVICES["vllm"]
    assert vllm["networks"] == ["engine"]
    assert {name for name, one in SERVICES.items() if "engine" in (one.get("networks") or ())} == {"inference", "vllm"}
    assert COMPOSE["networks"]["engine"] == {"internal": True}
    assert "ports" not in vllm
    assert "network_mode" not in vllm


def test_vllm_s_development_routes_are_open_in_no_other_container() -> None:
    assert SERVICES["vllm"]["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    others = [name for name, one in SERVICES.items() if "VLLM_SERVER_DEV_MODE" in (one.get("environment") or {})]
    assert others == ["vllm"]


def test_vllm_on_gpus_gets_no_capability_no_secret_and_writes_to_no_volume_of_the_stack() -> None:
    vllm = SERVICES["vllm"]
    assert vllm["cap_drop"] == ["ALL"]
    assert "cap_add" not in vllm
    assert "privileged" not in vllm
    assert vllm["security_opt"] == ["no-new-privileges:true"]
    assert not [name for name in vllm["environment"] if "KEY" in name or "TOKEN" in name]
    writable = [mount for mount in vllm["volumes"] if not mount.endswith(":ro")]
    assert writable == ["vllm-cache:/root/.cache"]


def test_vllm_on_gpus_finds_the_policies_where_inference_names_them() -> None:
    def runs(service: str) -> list[str]:
        return [mount.split(":")[1] for mount in SERVICES[service]["volumes"] if mount.startswith("runs:")]

    assert runs("vllm") == runs("inference") == ["/vpd/runs"]


def started(tmp_path: Path, **environment: str) -> list[str]:
    """The arguments that docker/vllm.sh starts vLLM with."""
    (tmp_path / "python3").write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    (tmp_path / "python3").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(ROOT / "docker" / "vllm.sh")], env=path | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def options(arguments: list[str]) -> dict[str, str]:
    """Each option with its value; a switch has an empty one."""
    found, name = {}, ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument
        found[name] = "" if argument == name else argument
    return found


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"VPD_MODEL__DTYPE": "bfloat16", "VPD_INFERENCE__MAX_CONTEXT": "512", "VPD_INFERENCE__MAX_BATCH_ROWS": "32"},
        {"VPD_INFERENCE__VLLM__LORA_RANK": "16"},
    ],
)
def test_vllm_on_gpus_is_started_as_inference_starts_its_own(tmp_path: Path, environment: dict[str, str]) -> None:
    settings = resolve_settings([], ["inference.engine=vllm", "model.device=cpu"], environment).settings
    own = options(command(settings, Path("python"), Path("model"), Path("socket"))[3:])
    in_compose = options(started(tmp_path, **environment)[2:])
    # Where it listens, what the model is, and what is only for a CPU.
    for name in ("--uds", "--host", "--port", "--model", "--enforce-eager"):
        own.pop(name, None)
        in_compose.pop(name, None)
    assert in_compose == own


def test_further_arguments_come_last_and_split_at_spaces(tmp_path: Path) -> None:
    assert started(tmp_path, VLLM_ARGUMENTS="--tensor-parallel-size 2")[-2:] == ["--tensor-parallel-size", "2"]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("", "renamed_library/model"),
        ("builtin:rigid_math", "rigid_math/model"),
        ("builtin:rigid_math/seed2", "rigid_math/model_seed2"),
    ],
)
def test_vllm_on_gpus_finds_a_built_in_model_in_the_mounted_tree(tmp_path: Path, path: str, model: str) -> None:
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["vllm"]["volumes"])
    found = options(started(tmp_path, VPD_MODEL__PATH=path)[2:])["--model"]
    folder = mounts["./trainer/tasks"]
    assert found == f"{folder}/{model}"
    assert (ROOT / "trainer" / "tasks" / model / "config.json").is_file()


def test_vllm_on_gpus_takes_any_other_model_by_its_name(tmp_path: Path) -> None:
    assert options(started(tmp_path, VPD_MODEL__PATH="Qwen/Qwen3-8B")[2:])["--model"] == "Qwen/Qwen3-8B"


def test_the_dashboard_reads_the_runs_and_can_write_nowhere() -> None:
    dashboard = SERVICES["dashboard"]
    assert "runs:/vpd/runs:ro" in dashboard["volumes"]
    assert all(mount.endswith(":ro") for mount in dashboard["volumes"])
    assert dashboard["read_only"] and dashboard["ports"] == ["127.0.0.1:${DASHBOARD_PORT:-8205}:8205"]
    waited_for = {name for one in SERVICES.values() for name in one.get("depends_on", {})}
    assert "dashboard" not in waited_for, "a run must not wait for it"
