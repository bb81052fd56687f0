"""The source in docs/feedback-source.md runs as it stands there, and answers what the document says."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feedback_builders import a_source, an_item

from shared.feedback_client import FeedbackSources, Judgement
from shared.settings import FeedbackSettings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "feedback-source.md").read_text()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("source")
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (folder / "my_source.py").write_text(code)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "uvicorn", "my_source:app", "--fd", str(listener.fileno())]
        process = subprocess.Popen(command, cwd=folder, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        try:
            found = f"http://127.0.0.1:{listener.getsockname()[1]}"
            _wait_for(found)
            yield found
        finally:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v1/capabilities", timeout=60)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the documented source did not start")


def test_the_documented_source_judges_through_the_client(url: str) -> None:
    async def judge() -> dict[str, Judgement]:
        settings = FeedbackSettings(sources={"code": a_source(url, role="both")})
        sources = FeedbackSources(settings, api_key=None)
        try:
            await sources.probe()
            items = [an_item(0, text="def solve(x):\n    return x", kind="code.functional"), an_item(1, text="no")]
            return await sources.judge("run", items)
        finally:
            await sources.aclose()

    judged = asyncio.run(judge())
    assert (judged["r0"].reward, judged["r0"].success) == (1, True)
    assert (judged["r1"].reward, judged["r1"].success) == (0, False)
    assert judged["r1"].feedback[0].text == "The answer lacks: def solve(, return "
    assert judged["r1"].feedback[0].source.name == "code"


def test_the_documented_question_gets_the_documented_answer(url: str) -> None:
    (asked, answer) = re.findall(r"-d '(\{.*?\})'\n(\{.*?\})\n```", DOCUMENT, re.DOTALL)[0]
    response = httpx.post(f"{url}/v1/feedback", content=asked, headers={"Content-Type": "application/json"})
    assert response.json() == json.loads(answer)
