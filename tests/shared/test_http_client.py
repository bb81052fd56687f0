"""Applications in reach of a process's HTTP clients without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from shared.http_client import http_client, mounted, origin

URL = "http://127.0.0.1:9"


def _app(name: str) -> FastAPI:
    app = FastAPI()

    @app.get("/who")
    async def who(request: Request) -> dict[str, str]:
        return {"name": name, "host": request.headers["host"]}

    return app


def _ask(url: str, applications: dict[str, Any]) -> Any:
    async def ask() -> Any:
        with mounted(applications):
            client = http_client()
        async with client:
            return (await client.get(url)).json()

    return asyncio.run(ask())


def test_a_mounted_application_answers_for_every_path_of_its_origin() -> None:
    assert _ask(f"{URL}/who", {f"{URL}/answer": _app("one")}) == {"name": "one", "host": "127.0.0.1:9"}


def test_applications_at_two_ports_are_told_apart() -> None:
    applications = {URL: _app("one"), "http://127.0.0.1:10": _app("two")}
    assert [_ask(f"{u}/who", applications)["name"] for u in applications] == ["one", "two"]


def test_another_origin_is_asked_over_the_network() -> None:
    with pytest.raises(httpx.ConnectError):
        _ask("http://127.0.0.1:1/who", {URL: _app("one")})


def test_mounts_nest_and_end_with_their_block() -> None:
    async def names() -> list[str]:
        found = []
        with mounted({URL: _app("outer")}):
            with mounted({URL: _app("inner")}):
                inner = http_client()
            outer = http_client()
        after = http_client()
        for client in (inner, outer):
            found.append((await client.get(f"{URL}/who")).json()["name"])
            await client.aclose()
        with pytest.raises(httpx.ConnectError):
            await after.get(f"{URL}/who")
        await after.aclose()
        return found

    assert asyncio.run(names()) == ["inner", "outer"]


def test_a_caller_that_is_cancelled_is_cancelled_even_if_the_application_answers_its_own_cancellation() -> None:
    app = FastAPI()
    asked = asyncio.Event()

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return {"still": "answered"}
        return {}

    async def cancel() -> bool:
        with mounted({URL: app}):
            client = http_client()
        async with client:
            call = asyncio.create_task(client.get(f"{URL}/slow"))
            await asyncio.wait_for(asked.wait(), 5)
            call.cancel()
            await asyncio.wait({call}, timeout=5)
            return call.cancelled()

    assert asyncio.run(cancel())


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("http://127.0.0.1:8203/answer/v1") == "http://127.0.0.1:8203"
