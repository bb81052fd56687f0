"""The chart passes Helm's lint, gives what Kubernetes' own schemas allow, and says in a sentence what it refuses."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from chart import CHART, ROOT, SCENARIOS, containers, environment, find, helm, part, pods, refusal, render, select

OLDEST, NEWEST = "1.31", "1.37"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_lint_has_nothing_to_say(scenario: str) -> None:
    report = helm().lint(CHART, SCENARIOS[scenario], strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] in ([], ["icon is recommended"])


def schemas() -> Path:
    """Kubernetes' schemas with unknown fields refused, the ones that kubeconform reads."""
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        pytest.skip("Kubernetes' schemas are not here: pip install --no-deps kubernetes-validate (23 MB)")
    return Path(spec.origin).parent / "kubernetes-json-schema"


def violations(one: dict[str, Any], version: str) -> list[str]:
    group, _, number = one["apiVersion"].rpartition("/")
    name = "-".join(filter(None, [one["kind"].lower(), group.split(".")[0], number]))
    problems = validator(schemas() / f"v{version}.0-local-strict" / f"{name}.json").iter_errors(one)
    return [f"{one['kind']} {one['metadata']['name']}: {problem}" for problem in problems]


@functools.cache
def validator(file: Path) -> Any:
    def retrieve(uri: str) -> Any:
        return json.loads((file.parent / uri.rpartition("/")[2]).read_text(encoding="utf-8"))

    schema = json.loads(file.read_text(encoding="utf-8"))
    return jsonschema_rs.validator_for(schema, base_uri=file.as_uri(), retriever=retrieve)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_one_that_kubernetes_takes(version: str) -> None:
    for values in SCENARIOS.values():
        objects = render(values)
        assert len(objects) > 15
        # The schema of a ServiceMonitor comes with Prometheus' operator.
        ours = [one for one in objects if one["kind"] != "ServiceMonitor"]
        assert [problem for one in ours for problem in violations(one, version)] == []


def test_the_schemas_would_see_a_misspelt_field_and_a_wrong_type() -> None:
    job = find(render({}), "Job", "vpd-learner-demo")
    job["spec"]["backofLimit"] = 3
    assert "backofLimit" in " ".join(violations(job, NEWEST))
    job = find(render({}), "Job", "vpd-learner-demo")
    job["spec"]["template"]["spec"]["containers"][0]["args"] = [1]
    assert violations(job, NEWEST)


def test_the_oldest_version_of_kubernetes_is_the_one_that_the_schemas_are_tried_with() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"inferenc": {}}, "'inferenc' not allowed"),
        ({"learner": {"gpu": 2}}, "'gpu' not allowed"),
        ({"settings": {"learnr": {}}}, "invalid propertyName 'learnr'"),
        ({"run": "Bad_Name"}, "'Bad_Name' does not match pattern"),
        ({"image": {"tag": 1.2}}, "at '/image/tag': got number, want string"),
        ({"networkPolicy": {"internet": ["code-feedback"]}}, "at '/networkPolicy/internet/0': value must be one of"),
        ({"networkPolicy": {"to": {"code-feedback": []}}}, "invalid propertyName 'code-feedback'"),
        ({"settings": {"run": {"name": "x"}}}, "settings.run.name is given by the value run"),
        ({"settings": {"queue": {"url": "redis://h"}}}, "set redis.enabled=false and redis.url"),
        ({"settings": {"critic_feedback": {"critic_api_key": "k"}}}, "name that in secret.settingsSecret"),
        ({"settings": {"feedback": {"sources": {"mine": {"api_key": "k"}}}}}, "name that in secret.settingsSecret"),
        ({"settings": {"inference": {"publish": "nccl"}}}, "settings.inference.publish must be files"),
        (
            {"collector": {"replicas": 2}, "settings": {"rollout": {"mode": "lockstep"}}},
            "collector.replicas must be 1 with settings.rollout.mode lockstep",
        ),
        ({"redis": {"enabled": False}}, "set redis.url, or secret.existingSecret with the key queue-url"),
        ({"secret": {"existingSecret": "mine", "apiKey": "k"}}, "secret.existingSecret holds all secrets"),
        ({"codeFeedback": {"isolation": "bubblewrap"}}, "bubblewrap needs codeFeedback.seccompProfile"),
        ({"codeFeedback": {"seccompProfile": "x.json"}}, "no other isolation takes one"),
        ({"codeFeedback": {"isolation": "unsafe"}}, "at '/codeFeedback/isolation': value must be one of"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(values)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_names_are_short_enough_for_any_release_and_run(scenario: str) -> None:
    longest = SCENARIOS[scenario] | {"run": "r" * 22}
    for one in render(longest, release="vpd-" + "x" * 49):
        assert len(one["metadata"]["name"]) <= 63
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", one["metadata"]["name"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_selector_finds_its_own_pods_and_no_others(scenario: str) -> None:
    objects = render(SCENARIOS[scenario])
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    for one in select(objects, "Deployment", "StatefulSet", "Service", "PodDisruptionBudget"):
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert [name for name, own in labels.items() if wanted.items() <= own.items()] == [part(one)]


def test_selectors_and_pod_labels_do_not_change_with_the_version_of_the_chart() -> None:
    stable = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
    for pod in pods(render({})).values():
        assert set(pod["metadata"]["labels"]) == stable


def test_two_releases_of_a_namespace_share_no_object() -> None:
    def names(release: str) -> set[tuple[str, str]]:
        return {(one["kind"], one["metadata"]["name"]) for one in render({}, release=release)}

    assert not names("first") & names("second")


def test_a_volume_of_a_pod_is_mounted_and_every_mount_is_of_a_volume() -> None:
    for values in SCENARIOS.values():
        objects = render(values)
        claims = {one["metadata"]["name"] for one in select(objects, "PersistentVolumeClaim")}
        own = {name for one in select(objects, "StatefulSet") for name in ["redis"]}
        for pod in pods(objects).values():
            volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
            mounted = {m["name"] for c in containers(pod).values() for m in c.get("volumeMounts", ())}
            assert mounted - own == set(volumes)
            for volume in volumes.values():
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                assert claim is None or claim in claims or claim.startswith("my-")


def test_a_part_is_made_anew_when_its_settings_change() -> None:
    def digests(values: dict[str, Any]) -> dict[str, str]:
        annotations = {name: pod["metadata"].get("annotations", {}) for name, pod in pods(render(values)).items()}
        return {name: own["checksum/settings"] for name, own in annotations.items() if name != "redis"}

    before, after = digests({}), digests({"settings": {"run": {"steps": 7}}})
    assert len(before) == 7
    assert not set(before.values()) & set(after.values())


def test_another_run_has_a_job_of_its_own() -> None:
    def jobs(run: str) -> list[str]:
        return [one["metadata"]["name"] for one in select(render({"run": run}), "Job")]

    assert jobs("demo") == ["vpd-learner-demo"]
    assert jobs("other") == ["vpd-learner-other"]


def test_the_learner_s_job_counts_no_eviction_and_gives_up_on_settings_that_are_refused() -> None:
    spec = find(render({}), "Job", "vpd-learner-demo")["spec"]
    eviction, refused = spec["podFailurePolicy"]["rules"]
    assert eviction == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert (refused["action"], refused["onExitCodes"]["values"]) == ("FailJob", [2])
    assert refused["onExitCodes"]["containerName"] in containers(spec["template"])
    # Never two learners in one run directory.
    assert spec["podReplacementPolicy"] == "Failed"


def test_gpus_are_asked_for_by_the_container_that_computes() -> None:
    made = pods(render(SCENARIOS["gpus"]))
    gpus = {
        name: container["resources"].get("limits", {}).get("nvidia.com/gpu")
        for pod in made.values()
        for name, container in containers(pod).items()
        if "nvidia.com/gpu" in container["resources"].get("limits", {})
    }
    assert gpus == {"learner": 4, "vllm": 2}
    transformers = containers(pods(render(SCENARIOS["transformers"]))["inference"])
    assert list(transformers) == ["inference"]
    assert transformers["inference"]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_vllm_on_gpus_listens_in_its_pod_alone_and_holds_no_secret() -> None:
    pod = pods(render(SCENARIOS["gpus"]))["inference"]
    vllm = containers(pod)["vllm"]
    given = environment(vllm)
    assert given["VLLM_ARGUMENTS"] == "--host 127.0.0.1 --tensor-parallel-size 2 --gpu-memory-utilization 0.8"
    assert "ports" not in vllm
    assert not [name for name in given if "KEY" in name or "TOKEN" in name]
    assert "envFrom" not in vllm
    # Else it could read the gateway's environment.
    assert "shareProcessNamespace" not in pod["spec"]
    assert all(mount.get("readOnly") for mount in vllm["volumeMounts"] if mount["name"] in ("runs", "models", "engine"))


def test_the_notes_name_what_there_is() -> None:
    with helm().Chart.load(CHART) as chart:
        notes = chart.render(SCENARIOS["four collectors"], name="vpd", namespace="training")["vpd/templates/NOTES.txt"]
    objects = render(SCENARIOS["four collectors"])
    for kind, name in re.findall(r"\b(job|service|secret)[/ ](vpd[\w-]*)", notes):
        find(objects, kind.capitalize(), name)
    assert notes.count("--namespace training") >= 6


def test_the_chart_s_version_of_the_project_is_the_project_s() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert chart["appVersion"] == project[1]
