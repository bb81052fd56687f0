"""How the chart shuts the parts in: who reaches whom, who holds which secret, what a container may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chart import SCENARIOS, containers, environment, find, part, pods, render, select, settings_text

RENDERED = pytest.mark.parametrize("scenario", SCENARIOS)
WITH_POLICIES = pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "no network policies"])
WITH_A_SECRET = pytest.mark.parametrize("scenario", [name for name, v in SCENARIOS.items() if "secret" not in v])


@RENDERED
def test_no_pod_gets_a_token_of_kubernetes(scenario: str) -> None:
    objects = render(SCENARIOS[scenario])
    assert all(account["automountServiceAccountToken"] is False for account in select(objects, "ServiceAccount"))
    for pod in pods(objects).values():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not [v for v in pod["spec"]["volumes"] if "projected" in v]


@RENDERED
def test_no_pod_gets_the_variables_of_service_links_which_no_setting_is(scenario: str) -> None:
    for pod in pods(render(SCENARIOS[scenario])).values():
        assert pod["spec"]["enableServiceLinks"] is False


@RENDERED
def test_every_container_is_shut_in(scenario: str) -> None:
    for pod in pods(render(SCENARIOS[scenario])).values():
        who = pod["spec"]["securityContext"]
        assert who["runAsNonRoot"] is True
        assert who["runAsUser"] == who["fsGroup"] > 0
        assert who["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod).values():
            walls = container["securityContext"]
            assert walls["allowPrivilegeEscalation"] is False
            assert walls["readOnlyRootFilesystem"] is True
            assert walls["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "runAsUser", "runAsNonRoot"} & set(walls)
            assert "memory" in container["resources"]["limits"]


@RENDERED
def test_no_pod_shares_anything_with_its_node(scenario: str) -> None:
    for pod in pods(render(SCENARIOS[scenario])).values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]


@WITH_A_SECRET
def test_a_secret_is_in_a_secret_alone(scenario: str) -> None:
    """Neither in a ConfigMap, nor in an argument, nor as the plain value of a variable."""
    secrets = {"secret": {"apiKey": "the-bearer-key", "hfToken": "the-hub-token"}, "redis": {"url": "redis://:word@h"}}
    values = SCENARIOS[scenario] | {"secret": secrets["secret"]}
    if not SCENARIOS[scenario].get("redis", {}).get("enabled", True):
        values = values | {"redis": {"enabled": False} | secrets["redis"]}
    objects = render(values)
    open_text = json.dumps([one for one in objects if one["kind"] != "Secret"])
    for word in ("the-bearer-key", "the-hub-token", "word@h"):
        assert word not in open_text


def test_a_key_that_nobody_chose_is_long_random_and_kept_at_uninstall() -> None:
    (first,), (second,) = (select(render({}, release=name), "Secret") for name in ("one", "two"))
    assert len(first["data"]["api-key"]) >= 48
    assert first["data"] != second["data"]
    assert first["data"]["api-key"] != first["data"]["redis-password"]
    assert first["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_secret_of_one_s_own_takes_the_place_of_the_chart_s() -> None:
    objects = render(SCENARIOS["secrets and claims of one's own"])
    assert not select(objects, "Secret", "PersistentVolumeClaim", "ServiceAccount")
    for name, pod in pods(objects).items():
        for container in containers(pod).values():
            sources = [value["secretKeyRef"]["name"] for value in environment(container).values() if refers(value)]
            assert set(sources) <= {"mine"}
            more = [one["secretRef"]["name"] for one in container.get("envFrom", ())]
            waits = container["name"] == "wait"
            assert more == ([] if waits or name in ("redis", "code-feedback", "dashboard") else ["more"])


def refers(value: Any) -> bool:
    return isinstance(value, dict) and "secretKeyRef" in value


@RENDERED
def test_code_feedback_holds_no_secret_but_the_bearer_key_and_no_volume_of_the_stack(scenario: str) -> None:
    pod = pods(render(SCENARIOS[scenario]))["code-feedback"]
    (container,) = containers(pod).values()
    assert set(environment(container)) == {"VPD_API_KEY"}
    assert "envFrom" not in container
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"tmp", "settings"}
    # What programs write counts against a bound of its own, and against the pod's memory.
    (tmp,) = (volume["emptyDir"] for volume in pod["spec"]["volumes"] if volume["name"] == "tmp")
    assert tmp == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_bubblewrap_gets_a_user_namespace_its_seccomp_profile_and_a_proc_of_its_own() -> None:
    spec = pods(render(SCENARIOS["bubblewrap"]))["code-feedback"]["spec"]
    walls = spec["containers"][0]["securityContext"]
    assert spec["hostUsers"] is False
    assert walls["procMount"] == "Unmasked"
    assert walls["seccompProfile"] == {"type": "Localhost", "localhostProfile": "vpd/seccomp-userns.json"}
    assert json.loads(settings_text(render(SCENARIOS["bubblewrap"])))["code_feedback"]["isolation"] == "bubblewrap"
    landlock = pods(render({}))["code-feedback"]["spec"]
    assert "hostUsers" not in landlock
    assert "procMount" not in landlock["containers"][0]["securityContext"]


# ------------------------------------------------------------------------------------------------------- the network


def test_without_a_rule_nobody_talks() -> None:
    deny = find(render({}), "NetworkPolicy", "vpd-deny-all")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    for pod in pods(render({})).values():
        assert deny["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def allowed(objects: list[dict[str, Any]], direction: str, peers: str) -> set[tuple[str, str, int]]:
    """(who has the rule, the part it names, port) of every rule between parts."""
    found = set()
    for policy in select(objects, "NetworkPolicy"):
        for rule in policy["spec"].get(direction, ()):
            for peer in rule.get(peers, ()):
                named = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                if named:
                    found |= {(part(policy), named, port["port"]) for port in rule["ports"]}
    return found


@WITH_POLICIES
def test_who_may_call_whom_is_the_same_on_both_sides(scenario: str) -> None:
    objects = render(SCENARIOS[scenario])
    callers = {(caller, called, port) for called, caller, port in allowed(objects, "ingress", "from")}
    assert callers == allowed(objects, "egress", "to")


@RENDERED
def test_nothing_leaves_code_feedback_and_redis(scenario: str) -> None:
    objects = render(SCENARIOS[scenario])
    policies = select(objects, "NetworkPolicy")
    assert bool(policies) is (scenario != "no network policies")
    for policy in policies:
        if part(policy) in ("code-feedback", "redis"):
            assert policy["spec"]["policyTypes"] == ["Ingress"]
            assert "egress" not in policy["spec"]


@RENDERED
def test_nobody_calls_the_trainer(scenario: str) -> None:
    objects = render(SCENARIOS[scenario])
    for policy in select(objects, "NetworkPolicy"):
        if part(policy) in ("learner", "collector"):
            assert "ingress" not in policy["spec"]
    for name in ("learner", "collector"):
        assert not [c for c in containers(pods(objects)[name]).values() if "ports" in c]


def outside(objects: list[dict[str, Any]]) -> set[str]:
    """Parts that reach public addresses."""
    return {
        part(policy)
        for policy in select(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", ())
        if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule.get("to", ()))
    }


def test_only_the_parts_on_the_list_reach_the_internet_and_the_others_do_not_try() -> None:
    listed = {"networkPolicy": {"internet": ["learner", "critic-feedback"]}}
    assert outside(render({})) == {"inference"}
    objects = render(listed)
    assert outside(objects) == {"learner", "critic-feedback"}
    for name, container in (("learner", "learner"), ("inference", "inference"), ("collector", "collector")):
        offline = environment(containers(pods(objects)[name])[container]).get("HF_HUB_OFFLINE")
        assert offline == (None if name == "learner" else "1")


def test_a_redis_outside_is_reached_by_the_trainer_alone() -> None:
    values = SCENARIOS["external redis"] | {"networkPolicy": {"redis": {"port": 6380}}}
    objects = render(values)
    assert not select(objects, "StatefulSet")
    callers = {
        part(policy)
        for policy in select(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", ())
        if rule.get("ports") == [{"port": 6380}]
    }
    assert callers == {"learner", "collector"}


def test_further_callers_and_targets_are_added_to_the_part_they_are_given_for() -> None:
    objects = render(SCENARIOS["metrics"])
    assert {"namespaceSelector": {}} in find(objects, "NetworkPolicy", "vpd-inference")["spec"]["ingress"][0]["from"]
    egress = find(objects, "NetworkPolicy", "vpd-critic-feedback-egress")["spec"]["egress"]
    assert {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]} in egress
    assert "10.1.2.3" not in json.dumps(find(objects, "NetworkPolicy", "vpd-learner-egress"))
