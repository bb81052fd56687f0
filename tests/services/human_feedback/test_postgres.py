"""The same store in PostgreSQL, also for several replicas of the service at once."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import running

from services.human_feedback.app import create_app
from shared.errors import InfrastructureError, SettingsError
from tests.services.human_feedback.support import a_question, claim, failed, settings


def _programs() -> Path | None:
    """Where PostgreSQL's programs are; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in candidates if (place / "initdb").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL of our own, without a synchronised disk."""
    pytest.importorskip("psycopg")
    programs = _programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="vpd-postgres-") as root:
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if user is not None:
            os.chown(root, pwd.getpwnam(user).pw_uid, -1)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

        def run(program: str, *arguments: str) -> None:
            command = [programs / program, "-D", f"{root}/data", *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=root, user=user)

        run("initdb", "-U", "vpd", "-A", "trust", "-E", "UTF8")
        options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-w", "-l", f"{root}/log", "-o", options, "start")
        try:
            yield f"postgresql://vpd@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture
def url(server: str) -> str:
    """A database that is empty."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as db:
        db.execute("DROP SCHEMA public CASCADE")
        db.execute("CREATE SCHEMA public")
    return server


def test_critiques_reviews_and_repeated_requests_work_in_postgresql(url: str) -> None:
    app = create_app(settings(url, review="uncertain"))
    with running(app) as base, httpx.Client(base_url=base) as client:
        client.post("/v1/feedback", json=a_question(failed("r0", 1.0), failed("r1"))).raise_for_status()
        place = "/v1/rollouts/r1/critiques/ann"
        tag = client.put(place, json={"text": "one \u0000é🙂"}).headers["ETag"]
        assert client.put(place, json={"text": "two"}, headers={"If-Match": tag}).status_code == 200
        assert client.put(place, json={"text": "three"}, headers={"If-Match": tag}).status_code == 412
        client.post(f"{place}/use", json={"status": "stale", "step": 1, "reason": "\u0000"}).raise_for_status()
        task = claim(client, "bob")
        assert task is not None and task["item"]["trajectory_id"] == "r0" and claim(client, "cid") is None
        client.put("/v1/review/drafts/bob/r0", json={"text": "a"}).raise_for_status()
        client.put("/v1/review/drafts/bob/r0", json={"text": "ab"}).raise_for_status()
        submitted = client.post(f"/v1/review/claims/{task['claim']['claim_id']}/submit", json={"text": "abc"})
        assert submitted.status_code == 201
        assert client.get("/v1/review/progress?reviewer=bob").json() == {"total": 1, "done": 1, "held": 0, "mine": 1}
        new = {"trajectory_id": "r7", "text": "x"}
        answers = [client.post("/v1/critiques", json=new, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert answers[0].json() == answers[1].json()
    with running(create_app(settings(url))) as base:  # a later start finds everything
        found = httpx.get(f"{base}/v1/critiques").json()["items"]
        assert [state["critique"]["text"] for state in found] == ["two", "abc", "x"]


def test_replicas_on_one_database_give_no_rollout_to_two_people_and_keep_the_order_of_writes(url: str) -> None:
    async def review(bases: list[str]) -> list[str]:
        given: list[str] = []

        async def person(number: int, http: httpx.AsyncClient) -> None:
            while True:
                claimed = await http.post("/v1/review/claims", json={"reviewer": f"w{number}"})
                if claimed.status_code == 204:
                    return
                task = claimed.json()
                given.append(task["item"]["trajectory_id"])
                place = f"/v1/review/claims/{task['claim']['claim_id']}/submit"
                (await http.post(place, json={"text": "x"})).raise_for_status()

        clients = [httpx.AsyncClient(base_url=base, timeout=60) for base in bases]
        await asyncio.gather(*(person(number, clients[number % 2]) for number in range(20)))
        await asyncio.gather(*(client.aclose() for client in clients))
        return given

    with running(create_app(settings(url))) as one, running(create_app(settings(url))) as two:
        httpx.post(f"{one}/v1/feedback", json=a_question(*(failed(f"r{i}") for i in range(40)))).raise_for_status()
        given = asyncio.run(review([one, two]))
        seqs = [state["seq"] for state in httpx.get(f"{two}/v1/critiques").json()["items"]]
    assert len(given) == 40 and max(Counter(given).values()) == 1
    assert seqs == list(range(1, 41))


def test_a_database_that_is_away_is_a_sentence_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    app = create_app(settings("postgresql://vpd:s3cret@127.0.0.1:1/none"))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    shown = r"The critique store postgresql\+psycopg://vpd:\*\*\*@127\.0\.0\.1:1/none failed"
    with pytest.raises(InfrastructureError, match=shown) as failure:
        asyncio.run(start())
    assert "s3cret" not in str(failure.value)


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(SettingsError, match="neither a path nor a URL of the form postgresql://"):
        create_app(settings("mysql://x@y/z"))
