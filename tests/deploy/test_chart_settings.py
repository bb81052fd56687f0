"""What the chart tells the processes: settings that there are, and the ones that compose gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from chart import CHART, ROOT, SCENARIOS, containers, environment, pods, render, select, settings_text

from shared import settings_tree as tree
from shared.load_settings import resolve_settings
from shared.settings import Settings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = {file.name: file.read_text() for file in sorted((CHART / "templates").iterdir())}
GIB = 2**30


# ------------------------------------------------------------------------------------------------- values and schema


def test_the_values_are_what_their_schema_says() -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(VALUES)


def test_every_value_has_a_place_in_the_schema_and_every_place_a_value() -> None:
    def check(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        places = set(schema["properties"]) - {"global"}
        assert set(values) == places, path
        for name in places:
            inner = schema["properties"][name]
            if "properties" in inner:
                check(values[name], inner, f"{path}.{name}")

    check(VALUES, SCHEMA, "values")


def test_every_place_in_the_schema_refuses_what_it_does_not_know_and_says_what_it_is_for() -> None:
    def check(schema: dict[str, Any], path: str) -> None:
        if "$ref" in schema:
            return
        assert schema.get("description"), path
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path
        for name, inner in schema.get("properties", {}).items():
            check(inner, f"{path}.{name}")

    check(SCHEMA, "values")
    for name, definition in SCHEMA["definitions"].items():
        check(definition, name)


def test_the_schema_names_the_sections_of_the_settings() -> None:
    sections = SCHEMA["properties"]["settings"]["propertyNames"]["enum"]
    assert sorted(sections) == sorted(set(Settings.model_fields) - {"api_key"})


def test_every_value_is_used_by_a_template() -> None:
    text = "".join(TEMPLATES.values())
    for name in VALUES:
        assert re.search(rf"\.Values\.{name}\b", text), name


# ------------------------------------------------------------------------------------------------ settings, variables


def test_every_variable_of_a_template_is_a_setting_or_is_read_by_a_script() -> None:
    known = {tree.env_name(key) for key in set(tree.keys())}
    named = {name for text in TEMPLATES.values() for name in re.findall(r"\bname: (VPD_\w+)", text)}
    assert named == {"VPD_API_KEY", "VPD_QUEUE__URL"}
    assert named <= known


def resolved(objects: list[dict[str, Any]], tmp_path: Path, *recipes: Path) -> Settings:
    """The settings as a process of the trainer reads them."""
    file = tmp_path / "settings.json"
    file.write_text(settings_text(objects), encoding="utf-8")
    container = containers(pods(objects)["learner"])["learner"]
    assert container["args"][-2:] == ["--recipe", "/etc/vpd/settings.json"]
    plain = {k: v if isinstance(v, str) else "redis://elsewhere" for k, v in environment(container).items()}
    return resolve_settings([*recipes, file], [], {k: v for k, v in plain.items() if k.startswith("VPD_")}).settings


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_settings_of_every_scenario_are_taken(scenario: str, tmp_path: Path) -> None:
    settings = resolved(render(SCENARIOS[scenario]), tmp_path)
    assert settings.run.name == "demo"
    assert settings.run.dir == "/vpd/runs"


def test_settings_keep_their_types_and_win_over_what_the_chart_says(tmp_path: Path) -> None:
    chosen = {
        "run": {"steps": 2_000_000},
        "optimizer": {"weight_decay": 1e-05},
        "model": {"path": "007"},
        "inference": {"timeout_s": 900, "vllm": {"arguments": ["--block-size", "64"]}},
        "feedback": {"sources": {"code": {"url": "http://mine:1", "shadow": True}, "rule": {"url": "http://rule:1"}}},
    }
    chosen["feedback"]["sources"]["rule"]["role"] = "outcome"
    settings = resolved(render({"settings": chosen}), tmp_path)
    assert settings.run.steps == 2_000_000
    assert settings.optimizer.weight_decay == 1e-05
    assert settings.model.path == "007"
    assert settings.inference.url == "http://vpd-inference:8201"
    assert settings.inference.vllm.arguments == ["--block-size", "64"]
    assert settings.feedback.sources["code"].url == "http://mine:1"
    assert settings.feedback.sources["rule"].role == "outcome"


def test_settings_win_over_the_recipe(tmp_path: Path) -> None:
    objects = render({"recipe": "grpo", "settings": {"algorithm": {"name": "sdpo"}}})
    arguments = containers(pods(objects)["learner"])["learner"]["args"]
    assert arguments[-4:-2] == ["--recipe", "recipes/grpo.toml"]
    assert resolved(objects, tmp_path, ROOT / arguments[-3]).algorithm.name == "sdpo"


def test_a_service_that_is_left_out_is_no_source(tmp_path: Path) -> None:
    settings = resolved(render({"humanFeedback": {"enabled": False}}), tmp_path)
    assert set(settings.feedback.sources) == {"code"}
    rule = {"url": "http://vpd-critic-feedback:8203/rule", "role": "outcome"}
    without = {"codeFeedback": {"enabled": False}, "settings": {"feedback": {"sources": {"rule": rule}}}}
    assert set(resolved(render(without), tmp_path).feedback.sources) == {"human", "rule"}


def test_several_collectors_run_ahead_of_the_learner(tmp_path: Path) -> None:
    settings = resolved(render(SCENARIOS["four collectors"]), tmp_path)
    assert (settings.rollout.mode, settings.rollout.collectors) == ("overlapped", 4)
    assert resolved(render({}), tmp_path).rollout.mode == "lockstep"


def test_every_address_of_the_settings_is_a_service_with_that_port(tmp_path: Path) -> None:
    objects = render({})
    services = {
        (one["metadata"]["name"], port["port"]) for one in select(objects, "Service") for port in one["spec"]["ports"]
    }
    settings = resolved(objects, tmp_path)
    urls = [settings.inference.url, settings.queue.url, *(s.url for s in settings.feedback.sources.values())]
    urls += containers(pods(objects)["learner"])["wait"]["args"]
    found = [re.search(r"(?:://|@)([\w-]+):(\d+)(?:/|$)", url) for url in urls]
    # Nobody but people calls the dashboard.
    assert {(match[1], int(match[2])) for match in found if match} == services - {("vpd-dashboard", 8205)}
    assert all(found)


@pytest.mark.parametrize("name", ["learner", "collector"])
def test_the_trainer_finds_the_queue_by_the_secret(name: str) -> None:
    inside = environment(containers(pods(render({}))[name])[name])
    assert inside["VPD_QUEUE__URL"] == "redis://:$(REDIS_PASSWORD)@vpd-redis:6379/0"
    # Kubernetes fills in only what stands before.
    assert list(inside).index("REDIS_PASSWORD") < list(inside).index("VPD_QUEUE__URL")
    assert inside["REDIS_PASSWORD"] == {"secretKeyRef": {"name": "vpd", "key": "redis-password"}}
    outside = environment(containers(pods(render(SCENARIOS["external redis"]))[name])[name])
    assert outside["VPD_QUEUE__URL"] == {"secretKeyRef": {"name": "vpd", "key": "queue-url"}}
    (secret,) = select(render(SCENARIOS["external redis"]), "Secret")
    assert set(secret["data"]) == {"api-key", "queue-url"}


# ------------------------------------------------------------------------------------------------- chart and compose


def size(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([gmGM])i?b?", text).groups()  # type: ignore[union-attr]
    return float(number) * (GIB if unit in "gG" else 2**20)


def default(text: Any) -> str:
    """A compose value without its variable: ${NAME:-value}."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


DATA = ("runs", "policy", "models", "human", "redis")
BOTH = ["redis", "inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard", "collector", "learner"]


def test_the_chart_has_every_service_of_compose() -> None:
    # `keys` is a Secret here, `vllm` and `model` are containers of the inference pod; a cluster has its own Prometheus.
    elsewhere = {"keys", "vllm", "model", "prometheus", "grafana"}
    assert set(COMPOSE) - elsewhere == set(BOTH) == set(pods(render({})))


@pytest.mark.parametrize("name", BOTH)
def test_chart_and_compose_agree_on_image_user_memory_and_time_to_stop(name: str) -> None:
    compose, pod = COMPOSE[name], pods(render({}))[name]
    container = containers(pod)[name]
    image = default(compose["image"])
    assert container["image"] == (image if ":" in image else f"{image}:0.1.0")
    assert size(container["resources"]["limits"]["memory"]) == size(default(compose["mem_limit"]))
    if compose["user"] != "redis":
        assert pod["spec"]["securityContext"]["runAsUser"] == int(compose["user"].split(":")[0])
    grace = {"2m": 120}.get(compose.get("stop_grace_period"), 30)
    assert pod["spec"]["terminationGracePeriodSeconds"] == grace
    (tmp,) = (v["emptyDir"]["sizeLimit"] for v in pod["spec"]["volumes"] if v["name"] == "tmp")
    assert name == "redis" or size(tmp) == size(compose["tmpfs"][0].split("size=")[1].split(",")[0])


@pytest.mark.parametrize("name", BOTH)
def test_the_chart_gives_the_arguments_of_the_image_and_the_settings(name: str) -> None:
    if name == "redis":
        (script,) = containers(pods(render({}))["redis"])["redis"]["args"]
        wanted = default(COMPOSE["redis"]["command"]).replace("--protected-mode no ", "").split()
        given = script.replace("\\\n", " ").partition("exec ")[2].replace("/tmp/redis.conf ", "").split()
        assert given == wanted
        return
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    target = "inference-vllm" if name == "inference" else name
    stage = dockerfile.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    command = json.loads(re.search(r"^CMD (\[.*\])$", stage, re.MULTILINE)[1])  # type: ignore[index]
    container = containers(pods(render({}))[name])[name]
    assert container["args"] == [*command, "--recipe", "/etc/vpd/settings.json"]
    ports = [int(command[-1])] if command[0] == "serve" else []
    assert [port["containerPort"] for port in container.get("ports", ())] == ports


def test_the_chart_allows_no_call_that_compose_s_networks_do_not() -> None:
    networks = {name: set(one.get("networks") or ()) for name, one in COMPOSE.items()}
    objects = render({})
    for policy in select(objects, "NetworkPolicy"):
        called = policy["metadata"]["labels"]["app.kubernetes.io/component"]
        for rule in policy["spec"].get("ingress", ()):
            for peer in rule["from"]:
                caller = peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
                assert networks[caller] & networks[called], (caller, called)


def test_the_volumes_are_where_compose_has_them_and_as_writable() -> None:
    def mounts(name: str) -> dict[str, bool]:
        """Whether each folder of the stack's data may be written."""
        found = {}
        for mount in COMPOSE[name]["volumes"]:
            volume, folder, *mode = mount.split(":")
            if volume in DATA:
                found[folder] = mode != ["ro"]
        return found

    for name, pod in pods(render({})).items():
        given = containers(pod)[name].get("volumeMounts", ())
        ours = {m["mountPath"]: not m.get("readOnly") for m in given if m["name"] in DATA}
        assert ours == mounts(name), name


def test_vllm_s_container_has_compose_s_variables_and_image() -> None:
    vllm = containers(pods(render(SCENARIOS["gpus"]))["inference"])["vllm"]
    compose = COMPOSE["vllm"]
    assert vllm["image"] == default(compose["image"])
    # The settings come by vllm.env, of prepare_vllm.py.
    wanted = {k: v for k, v in compose["environment"].items() if not k.startswith("VPD_") and k != "VLLM_ARGUMENTS"}
    given = environment(vllm)
    assert {name: given[name] for name in wanted} == wanted
