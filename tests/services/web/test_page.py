from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from services.web.page import StaticPage
from shared.service import create_service
from shared.settings import Settings


@pytest.fixture(params=["/", "/review/"])
def at(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(tmp_path: Path, at: str) -> Iterator[TestClient]:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "page.js").write_text("export {};")
    app = create_service("paged", Settings(api_key="key"), page=Middleware(StaticPage, at=at, folder=tmp_path))

    @app.get("/v1/thing")
    async def thing() -> str:
        return "thing"

    with TestClient(app) as client:
        yield client


def test_a_page_is_open_and_the_api_is_not(client: TestClient, at: str) -> None:
    assert client.get(at).text == "<!doctype html>"
    assert client.get("/v1/thing").status_code == 401
    assert client.get("/v1/thing", headers={"Authorization": "Bearer key"}).json() == "thing"


def test_files_have_the_types_that_browsers_insist_on(client: TestClient, at: str) -> None:
    types = {name: client.get(at + name).headers["content-type"] for name in ("", "parts/page.js", "shared/base.css")}
    assert {name: found.partition(";")[0] for name, found in types.items()} == {
        "": "text/html",
        "parts/page.js": "text/javascript",
        "shared/base.css": "text/css",
    }


def test_every_file_forbids_scripts_and_frames_of_others(client: TestClient, at: str) -> None:
    for name in ("", "parts/page.js", "shared/api.js"):
        headers = client.get(at + name).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_known_file_is_not_sent_again(client: TestClient, at: str) -> None:
    first = client.get(at)
    again = client.get(at, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


def test_paths_out_of_the_folder_are_the_api_s(client: TestClient, at: str) -> None:
    for path in ("../page.py", "%2e%2e/page.py", "shared/../../page.py", "parts", "none.js"):
        assert client.get(at + path).status_code == 401


def test_writes_to_a_page_s_address_need_a_key(client: TestClient, at: str) -> None:
    assert client.post(at).status_code == 401


def test_the_address_without_its_last_slash_leads_to_the_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here")
    page = Middleware(StaticPage, at="/review/", folder=tmp_path)
    with TestClient(create_service("paged", Settings(api_key="key"), page=page)) as client:
        answer = client.get("/review")
        assert (str(answer.url), answer.text) == ("http://testserver/review/", "here")


def test_files_of_a_page_count_as_one_route(client: TestClient, at: str) -> None:
    client.get(at)
    client.get(at + "parts/page.js")
    assert f'vpd_http_requests_total{{method="GET",route="{at}",status="200"}} 2.0' in client.get("/metrics").text
