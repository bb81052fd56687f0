"""The chart rendered by Helm's own code, and its objects."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "vpd"
Object = dict[str, Any]

SCENARIOS: dict[str, Object] = {
    "defaults": {},
    "gpus": {
        "learner": {"gpus": 4, "runtimeClassName": "nvidia"},
        "inference": {"gpus": 2, "vllm": {"arguments": ["--gpu-memory-utilization", "0.8"]}},
        "settings": {"model": {"path": "Qwen/Qwen3-0.6B", "dtype": "bfloat16"}},
        "recipe": "sdpo",
    },
    "transformers": {"inference": {"engine": "transformers", "gpus": 1}},
    "external redis": {"redis": {"enabled": False, "url": "rediss://:hunter2@redis.example.com:6380/0"}},
    "four collectors": {"collector": {"replicas": 4}},
    "secrets and claims of one's own": {
        "secret": {"existingSecret": "mine", "settingsSecret": "more"},
        "storage": {name: {"existingClaim": f"my-{name}"} for name in ("runs", "models", "human")},
        "serviceAccount": {"create": False, "name": "somebody"},
        "image": {"repository": "registry.example.com/team/", "tag": "7", "pullSecrets": ["pull"]},
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "no feedback of people and critics": {"humanFeedback": {"enabled": False}, "criticFeedback": {"enabled": False}},
    "bubblewrap": {
        "codeFeedback": {"isolation": "bubblewrap", "seccompProfile": "vpd/seccomp-userns.json", "replicas": 3}
    },
    "metrics": {
        "metrics": {"annotations": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {
            "from": {"inference": [{"namespaceSelector": {}}]},
            "to": {"critic-feedback": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
        },
    },
}


def helm() -> Any:
    """Helm as a library; the test is skipped where it is not installed."""
    return pytest.importorskip("helm_python", reason="Helm is not here: pip install helm-python-sdk (75 MB)")


def render(values: Object, *, release: str = "vpd") -> list[Object]:
    """Every object that the chart makes of `values`. Raises Helm's error where it refuses them."""
    helm()
    return json.loads(_rendered(json.dumps(values), release))


@functools.cache
def _rendered(values: str, release: str) -> str:
    with helm().Chart.load(CHART) as chart:
        files = chart.render(json.loads(values), name=release, namespace="training")
    objects = [one for name, text in files.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    return json.dumps(objects)


def refusal(values: Object) -> str:
    """What Helm says to values that the chart refuses."""
    with pytest.raises(helm().HelmError) as error:
        render(values)
    return str(error.value)


def select(objects: list[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def find(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (one for one in select(objects, kind) if one["metadata"]["name"] == name)
    return found


def part(one: Object) -> str:
    """Which part of the stack an object or a pod template belongs to."""
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(objects: list[Object]) -> dict[str, Object]:
    """The pod template of each part."""
    workloads = select(objects, "Deployment", "StatefulSet", "Job")
    return {part(one): one["spec"]["template"] for one in workloads}


def containers(pod: Object) -> dict[str, Object]:
    """Containers of a pod template by name, those that run before it included."""
    spec = pod["spec"]
    return {one["name"]: one for one in [*spec.get("initContainers", ()), *spec["containers"]]}


def environment(container: Object) -> dict[str, Any]:
    """Each variable with its value, or with where that comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}


def settings_text(objects: list[Object]) -> str:
    (config,) = select(objects, "ConfigMap")
    return str(config["data"]["settings.json"])
