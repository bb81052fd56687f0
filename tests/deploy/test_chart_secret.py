"""The chart's Secret where an install before has left one: Helm itself, against a cluster that has nothing else."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, helm

KEPT = {"api-key": "the-kept-key", "redis-password": "the-kept-password"}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {
        "name": "vpd",
        "namespace": "training",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "vpd", "meta.helm.sh/release-namespace": "training"},
    },
    "data": {name: base64.b64encode(text.encode()).decode() for name, text in KEPT.items()},
}
KIND = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}
CLUSTER: dict[str, Any] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [KIND]},
    # Kubernetes' own schemas: none.
    "/openapi/v2": None,
    "/api/v1/namespaces/training/secrets": {"kind": "SecretList", "apiVersion": "v1", "items": []},
    "/api/v1/namespaces/training/secrets/vpd": SECRET,
}


class _Cluster(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        missing = {"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}
        answer = CLUSTER.get(path, missing)
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(404 if answer is missing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def kubeconfig() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Cluster) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        cluster = {"name": "one", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "one", "context": {"cluster": "one", "user": "one"}}
        parts = {"clusters": [cluster], "users": [{"name": "one", "user": {"token": "t"}}], "contexts": [context]}
        yield yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "one"} | parts)
        server.shutdown()
        thread.join()


@pytest.fixture
def chart_of_the_secret(tmp_path: Path) -> Path:
    """The chart with no other object: the cluster knows of no other kind."""
    (tmp_path / "templates").mkdir()
    for name in ("Chart.yaml", "values.yaml", "templates/_helpers.tpl", "templates/secret.yaml"):
        shutil.copy(CHART / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("values", "data"),
    [
        ({}, KEPT),
        ({"secret": {"apiKey": "another"}}, KEPT | {"api-key": "another"}),
        ({"secret": {"hfToken": "hub"}}, KEPT | {"hf-token": "hub"}),
    ],
)
def test_a_key_that_there_is_stays_unless_another_is_chosen(
    values: dict[str, Any], data: dict[str, str], kubeconfig: str, chart_of_the_secret: Path
) -> None:
    with helm().Config(namespace="training", kubeconfig_content=kubeconfig) as cluster:
        release = cluster.install(str(chart_of_the_secret), "vpd", values, dry_run="server")
    made = yaml.safe_load(release["manifest"])
    assert {name: base64.b64decode(text).decode() for name, text in made["data"].items()} == data
