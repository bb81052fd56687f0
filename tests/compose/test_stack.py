"""`docker compose up` with a real engine: health, walls, learning, crashes, and a source swapped by its URL.

The tests share one stack and one run, in the order of this file: the crashes happen while the run trains.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from compose_stack import ROOT, Stack, wait_for

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800), pytest.mark.xdist_group("compose")]

HTTP_SERVICES = ("inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard")
OURS = (*HTTP_SERVICES, "collector", "learner")
STATUS = "cat /proc/self/status; id -u; touch /opt/vpd/probe 2>&1 || true"
RUN = "/vpd/runs/demo"
ENGINE_START_S = 400

READY = ("python", "-IS", "/opt/vpd/healthcheck.py", "8202")

# Asks the code-feedback service about a program on standard input, below its name; prints the feedback as JSON.
ASK = """
import json, sys, urllib.request
name, program = sys.stdin.read().split("\\n", 1)
task = {"id": "t", "kind": "code.functional", "messages": [{"role": "user", "content": "q"}],
        "reference": {"fn_name": "solve", "tests": [{"input": "1", "output": "1", "public": True}]}}
response = {"text": "```python\\n" + program + "\\n```"}
item = {"trajectory_id": name, "group_id": "g", "policy_version": 0, "task": task, "response": response}
request = urllib.request.Request("http://code-feedback:8202/v1/feedback",
    json.dumps({"run_id": "probe", "items": [item]}).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer " + open("/keys/api_key").read().strip()})
print(json.dumps(json.load(urllib.request.urlopen(request, timeout=30))["results"][0]))
"""

# Tries each "host port" line of standard input; prints which of them it reached.
CONNECT = """
import socket, sys
for line in sys.stdin:
    host, port = line.split()
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(line, end="")
    except OSError:
        pass
"""


def test_every_service_is_healthy(stack: Stack) -> None:
    for service in ("redis", *HTTP_SERVICES):
        wait_for(f"{service} is healthy", lambda name=service: stack.state(name) == "healthy", 60)


def test_the_key_made_at_the_first_start_opens_the_services_and_nothing_else_does(stack: Stack) -> None:
    url = stack.url("inference", 8201)
    key = stack.exec("inference", "cat", "/keys/api_key").strip()
    assert f"shown this once: {key}" in stack.compose("logs", "--no-color", "keys")
    assert httpx.get(f"{url}/v1/policy", headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code == 200
    assert httpx.get(f"{url}/v1/policy", headers={"Authorization": "Bearer wrong"}, timeout=30).status_code == 401
    assert httpx.get(f"{url}/v1/policy", timeout=30).status_code == 401


def test_ports_are_published_on_the_loopback_interface_alone(stack: Stack) -> None:
    bound = {service: stack.inspect(service)["NetworkSettings"]["Ports"] for service in ("redis", *OURS)}
    published = {s: [b for bindings in ports.values() for b in bindings or []] for s, ports in bound.items()}
    assert {s for s, bindings in published.items() if bindings} == {
        "inference",
        "critic-feedback",
        "human-feedback",
        "dashboard",
    }
    assert {b["HostIp"] for bindings in published.values() for b in bindings} == {"127.0.0.1"}


@pytest.mark.parametrize("service", ("redis", *OURS))
def test_a_container_is_shut_in(stack: Stack, service: str) -> None:
    container = stack.inspect(service)
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    assert container["HostConfig"]["Memory"] > 0
    assert container["HostConfig"]["PidsLimit"] > 0
    assert container["HostConfig"]["Init"] is True


@pytest.mark.parametrize("service", HTTP_SERVICES)
def test_a_process_in_a_container_has_no_privileges(stack: Stack, service: str) -> None:
    printed = stack.exec(service, "sh", "-c", STATUS)
    fields = dict(line.split(":\t", 1) for line in printed.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert "\n10001\n" in printed
    assert "Read-only file system" in printed


def test_the_sandbox_reaches_neither_redis_nor_a_service_nor_the_world(stack: Stack) -> None:
    services = f"{stack.address('redis', 'queue')} 6379\n{stack.address('inference', 'services')} 8201\n"
    assert stack.python("collector", CONNECT, services) == services
    assert stack.python("code-feedback", CONNECT, f"{services}1.1.1.1 53\n") == ""
    assert set(stack.inspect("code-feedback")["NetworkSettings"]["Networks"]) == {f"{stack.name}_sandbox"}


def test_rollouts_come_from_vllm_and_nothing_of_it_is_reachable_but_through_the_gateway(stack: Stack) -> None:
    assert "vllm.entrypoints" in stack.exec("inference", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    # Lines of /proc/net/tcp: local address in hexadecimal (bytes reversed) and port; state 0A listens.
    lines = [line.split() for line in stack.exec("inference", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    listening = [line[1].split(":") for line in lines if line[3] == "0A"]
    reachable = {int(port, 16) for address, port in listening if not address.endswith("7F")}
    assert reachable == {8201}


def test_the_sandbox_is_given_no_secret_but_the_bearer_key(stack: Stack) -> None:
    environment = stack.inspect("code-feedback")["Config"]["Env"]
    # A line without "=" is a name that compose hands through and that is not set.
    names = {line.split("=", 1)[0] for line in environment if line.startswith("VPD_") and "=" in line}
    assert names == {"VPD_API_KEY_FILE", "VPD_SERVICE__HOST"}
    mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect("code-feedback")["Mounts"]}
    assert mounts == {"/keys": False, "/opt/vpd/recipes": False}


def test_programs_are_isolated_under_the_engine_s_own_profile(stack: Stack) -> None:
    assert "sandbox:landlock" in stack.exec("code-feedback", *READY)


def test_a_judged_program_cannot_read_the_bearer_key(stack: Stack) -> None:
    reading = "reading\ndef solve(x):\n    return len(open('/keys/api_key').read()) * 0 + x"
    harmless = "harmless\ndef solve(x):\n    return x"
    assert json.loads(stack.python("collector", ASK, harmless))["success"] is True
    refused = json.loads(stack.python("collector", ASK, reading))
    assert refused["status"] == "ok"
    assert refused["success"] is False
    assert "Error" in refused["text"]


@pytest.mark.parametrize("service", ["code-feedback", "inference"])
def test_a_service_that_is_killed_comes_back_healthy_by_itself(stack: Stack, service: str) -> None:
    before = stack.inspect(service)["RestartCount"]
    stack.kill_main_process(service)
    wait_for(f"{service} was started again", lambda: stack.inspect(service)["RestartCount"] > before, 60)
    wait_for(f"{service} is healthy again", lambda: stack.state(service) == "healthy", ENGINE_START_S)


def test_a_learner_that_is_killed_goes_on_with_the_same_run(stack: Stack) -> None:
    wait_for("the first checkpoint", lambda: _last_step(stack) >= 6, 600)
    identity = _run_file(stack, "run.json")
    stack.kill_main_process("learner")
    wait_for("the learner was started again", lambda: stack.inspect("learner")["RestartCount"] == 1, 60)
    wait_for("a step after the restart", lambda: _last_step(stack) >= 8, 600)
    assert _run_file(stack, "run.json") == identity


def test_the_run_learns_says_so_and_stays_finished(stack: Stack, tmp_path: Path) -> None:
    for job in ("learner", "collector"):
        wait_for(f"{job} is done", lambda name=job: stack.state(name) == "exited", 1200)
        assert stack.inspect(job)["State"]["ExitCode"] == 0
    assert stack.inspect("learner")["RestartCount"] == 1
    summary = json.loads(stack.copy_out("learner", f"{RUN}/summary.json", tmp_path / "summary.json").read_text())
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.05
    steps = [r["step"] for r in _records(stack) if r["kind"] == "step"]
    assert steps == list(range(len(steps)))
    assert stack.copy_out("learner", f"{RUN}/curve.png", tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    log = stack.compose("logs", "--no-color", "learner")
    assert f" accuracy_before={summary['accuracy_before']} " in log
    assert f" accuracy_after={summary['accuracy_after']} " in log


def test_the_dashboard_shows_the_run_and_can_write_nothing_of_it(stack: Stack) -> None:
    url = stack.url("dashboard", 8205)
    key = stack.exec("dashboard", "cat", "/keys/api_key").strip()
    assert httpx.get(f"{url}/v1/runs", timeout=30).status_code == 401
    found = httpx.get(f"{url}/v1/runs/demo", headers={"Authorization": f"Bearer {key}"}, timeout=30).json()
    assert found["state"] == "finished" and found["steps_done"] == len(
        [r for r in _records(stack) if r["kind"] == "step"]
    )
    assert "Read-only file system" in stack.exec("dashboard", "sh", "-c", f"touch {RUN}/probe 2>&1 || true")


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_writes_into_the_volume_has_every_step(stack: Stack, tracker: str) -> None:
    delivered = json.loads(stack.exec("inference", "cat", f"{RUN}/tracking.json"))[tracker]
    steps = [r["step"] for r in _records(stack) if r["kind"] == "step"]
    assert delivered["lacks"] is None and delivered["next_step"] > steps[-1]


def test_prometheus_finds_every_service(stack: Stack) -> None:
    observed = ("--profile", "observability")
    image = json.loads(stack.compose(*observed, "config", "--format", "json"))["services"]["prometheus"]["image"]
    if not stack.has_image(image):
        pytest.skip(f"{image} is not here and cannot be pulled")
    stack.compose(*observed, "up", "--detach", "--no-deps", "--wait", "prometheus")
    url = stack.url("prometheus", 9090)

    def up() -> set[str]:
        targets = httpx.get(f"{url}/api/v1/targets", timeout=30).json()["data"]["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    wait_for("every service answers Prometheus", lambda: up() == set(HTTP_SERVICES), 60)

    def runs() -> list[str]:
        query = {"query": "vpd_run_success_rate"}
        found = httpx.get(f"{url}/api/v1/query", params=query, timeout=30).json()["data"]["result"]
        return [one["metric"]["run"] for one in found]

    wait_for("Prometheus has figures of the run", lambda: runs() == ["demo"], 120)


def test_a_source_is_swapped_by_its_url(stack: Stack, tmp_path: Path) -> None:
    stack.compose("stop", "code-feedback")
    stack.compose("up", "--detach", "--no-deps", "my-source")
    swapped = {
        "VPD_FEEDBACK__SOURCES__CODE__URL": "http://my-source:9000",
        "VPD_RUN__NAME": "swapped",
        "VPD_RUN__STEPS": "2",
        "FINAL_TASKS": "8",
    }
    stack.compose("up", "--detach", "--no-deps", "collector", "learner", environment=swapped)
    wait_for("the second run is done", lambda: stack.state("learner") == "exited", 300)
    assert stack.inspect("learner")["State"]["ExitCode"] == 0
    stack.compose("cp", "learner:/vpd/runs/swapped/trajectories/step_000001.jsonl", str(tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    said = {feedback["text"] for row in rows for feedback in row["feedback"] if feedback.get("text")}
    assert said
    assert all(text.startswith(("Nothing is missing", "The answer lacks")) for text in said)


def test_bubblewrap_isolates_where_the_profile_lets_it(stack: Stack) -> None:
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.exists() and restricted.read_text().strip() == "1":
        pytest.skip("AppArmor forbids unprivileged user namespaces on this machine")
    stronger = Stack(stack.name, [ROOT / "docker" / "bubblewrap.yml"])
    stronger.compose("up", "--detach", "--no-deps", "--wait", "code-feedback")
    assert "sandbox:bubblewrap" in stronger.exec("code-feedback", *READY)


def test_the_gpu_profile_is_a_valid_project_with_a_gpu_reserved() -> None:
    config = json.loads(Stack("vpd-config").compose("--profile", "gpu", "config", "--format", "json"))
    devices = config["services"]["vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert config["services"]["inference"]["depends_on"]["vllm"]["required"] is False
    assert devices[0]["driver"] == "nvidia"
    assert devices[0]["capabilities"] == ["gpu"]
    assert "vllm" not in json.loads(Stack("vpd-config").compose("config", "--format", "json"))["services"]


def _last_step(stack: Stack) -> int:
    return max((r["step"] for r in _records(stack) if r["kind"] == "step"), default=-1)


def _records(stack: Stack) -> list[dict[str, Any]]:
    """metrics.jsonl, read through the inference container, which sees the same volume."""
    lines = stack.exec("inference", "sh", "-c", f"cat {RUN}/metrics.jsonl 2>/dev/null || true").splitlines()
    return [json.loads(line) for line in lines]


def _run_file(stack: Stack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.exec("inference", "cat", f"{RUN}/{name}"))
    return found
