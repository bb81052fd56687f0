"""What `vpd up` fills in, and what it leaves as the user set it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from cli.stack import (
    Plan,
    child_environment,
    is_job,
    job_specs,
    plan_stack,
    port_is_free,
    require_free_ports,
    service_specs,
)
from shared.errors import VPDError
from shared.load_settings import public_settings, resolve_settings


def plan(*overrides: str, base_port: int = 8201, directory: Path = Path("runs/demo")) -> Plan:
    return plan_stack(resolve_settings([], overrides, {}), base_port=base_port, run_directory=directory)


def test_urls_at_the_default_ports_follow_the_base_port_and_others_stay() -> None:
    settings = plan(
        "feedback.sources.critic.url=http://localhost:8203/critique",
        "feedback.sources.mine.url=http://127.0.0.1:9000",
        "critic_feedback.critic_url=http://127.0.0.1:8201/v1",
        base_port=9301,
    ).settings
    assert settings.inference.url == "http://127.0.0.1:9301"
    assert settings.critic_feedback.critic_url == "http://127.0.0.1:9301/v1"
    assert {name: source.url for name, source in settings.feedback.sources.items()} == {
        "code": "http://127.0.0.1:9302",
        "human": "http://127.0.0.1:9304",
        "critic": "http://localhost:9303/critique",
        "mine": "http://127.0.0.1:9000",
    }


def test_an_inference_service_elsewhere_is_not_started_here() -> None:
    assert "inference" not in plan("inference.url=http://gpu:8201").ports
    assert set(plan().ports) == {"inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard"}


def test_a_redis_of_the_user_s_is_used_and_none_is_started() -> None:
    chosen = plan("queue.url=redis://127.0.0.1:6379/0")
    assert chosen.redis_socket is None
    assert chosen.settings.queue.url == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize("directory", [Path("runs/demo"), Path("x" * 120), Path("with space/demo")])
def test_the_redis_socket_s_path_is_short_enough_for_the_kernel(directory: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    socket_path = plan(directory=directory).redis_socket
    assert socket_path is not None
    assert len(str(socket_path)) < 108 or str(socket_path).startswith(str(tmp_path))
    assert " " not in str(socket_path)


def test_policies_and_critiques_go_where_the_runs_go() -> None:
    settings = plan("run.dir=elsewhere", directory=Path("elsewhere/demo")).settings
    assert (settings.inference.policy_root, settings.human_feedback.database) == (
        "elsewhere/demo",
        "elsewhere/human_feedback.sqlite3",
    )
    assert plan("run.dir=elsewhere", "inference.policy_root=all").settings.inference.policy_root == "all"


def test_a_key_is_made_once_per_stack_and_a_given_one_is_kept() -> None:
    made = [plan().settings.api_key for _ in range(2)]
    assert made[0] is not None
    assert made[0] != made[1]
    given = plan("api_key=mine")
    assert given.settings.api_key is not None
    assert (given.settings.api_key.get_secret_value(), given.key_is_new) == ("mine", False)


def test_the_key_reaches_children_by_environment_alone() -> None:
    settings = plan("api_key=hush").settings
    commands = json.dumps([list(spec.command) for spec in service_specs(plan("api_key=hush"), Path("s.json"))])
    assert "hush" not in json.dumps(public_settings(settings)) + commands
    inherited = {"VPD_RUN__STEPS": "3", "VPD_API_KEY": "old", "PATH": "/bin", "OMP_NUM_THREADS": "5"}
    environment = child_environment(settings, heavy=False, environ=inherited)
    assert environment == {"VPD_API_KEY": "hush", "PATH": "/bin", "OMP_NUM_THREADS": "5"}


@pytest.mark.parametrize(
    ("overrides", "collectors"),
    [
        ((), ["collector"]),
        (("rollout.mode=overlapped", "rollout.collectors=3"), ["collector", "collector-2", "collector-3"]),
    ],
)
def test_every_collector_runs_under_a_name_of_its_own_that_is_no_setting(
    overrides: tuple[str, ...], collectors: list[str]
) -> None:
    specs = job_specs(plan(*overrides).settings, Path("s.json"))
    environments = {spec.name: dict(spec.environment or {}) for spec in specs}
    assert list(environments) == [*collectors, "learner"]
    names = {name: environment.get("VPD_COLLECTOR_NAME") for name, environment in environments.items()}
    assert names == {**{name: name for name in collectors}, "learner": None}
    assert all(is_job(name) for name in names) and not any(map(is_job, ("redis", "inference", "code-feedback")))
    named = {"VPD_COLLECTOR_NAME": "collector-2"}
    assert resolve_settings([], [], named).settings == resolve_settings([], [], {}).settings


def test_a_taken_port_is_named_with_its_service_and_the_way_out() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        with pytest.raises(VPDError, match=f"Port {port}, for inference, is in use: .*--base-port"):
            require_free_ports(plan(base_port=port))


def test_the_links_to_the_pages_hold_the_key_that_was_made_for_the_stack_and_never_one_that_was_set() -> None:
    made = plan("run.name=trial", base_port=9301)
    assert made.settings.api_key is not None
    key = made.settings.api_key.get_secret_value()
    assert made.links() == [
        f"Dashboard: http://127.0.0.1:9305/#key={key}&run=trial",
        f"Review page: http://127.0.0.1:9304/review/#key={key}",
    ]
    assert plan("api_key=mine").links() == [
        "Dashboard: http://127.0.0.1:8205/#run=demo",
        "Review page: http://127.0.0.1:8204/review/",
    ]


def test_a_run_can_do_without_the_dashboard_alone() -> None:
    assert [spec.name for spec in service_specs(plan(), Path("s.json")) if spec.optional] == ["dashboard"]
