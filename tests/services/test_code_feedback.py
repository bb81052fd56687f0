"""The code-feedback service over real HTTP: real programs, real sandboxes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.isolation import Isolation
from services.code_feedback import pool
from services.code_feedback.app import create_app
from services.code_feedback.pool import MAX_RETRY_AFTER_S, JudgePool, Overloaded
from shared.protocol import Capabilities, FeedbackResponse
from shared.settings import CodeFeedbackSettings, Settings
from tests.services.code_feedback_support import eventually, item_of, waiting
from tests.serving import running

LIBRARY = "def plus(a, b): return a + b\ndef __getattr__(n): raise AttributeError(f\"module 'lib' has no attribute {n!r}, it was renamed to 'plus'\")\n"  # noqa: E501
REFERENCE = {
    "tests": [{"input": str(x), "output": str(x + 3)} for x in range(8)],
    "fn_name": "solve",
    "files": {"lib.py": LIBRARY},
    "time_limit_s": 5,
}
RIGHT = "```python\nimport lib\n\ndef solve(x):\n    x = lib.plus(x, 3)\n    return x\n```"
WRONG = RIGHT.replace("plus", "add")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = Settings(code_feedback=CodeFeedbackSettings(isolation="auto", workers=2))
    with running(create_app(settings)) as base:
        yield base


def item(name: str, text: str, kind: str = "code.functional", **reference: Any) -> dict[str, Any]:
    return item_of(name, text, kind, REFERENCE | reference if kind == "code.functional" else reference)


def ask(
    url: str, *items: dict[str, Any], key: str | None = None, bearer: str | None = None, **more: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    headers |= {"Authorization": f"Bearer {bearer}"} if bearer else {}
    body = {"run_id": "r", "deadline_s": 60.0, "items": list(items), **more}
    return httpx.post(f"{url}/v1/feedback", json=body, headers=headers, timeout=90)


def one(url: str, asked: dict[str, Any], **more: Any) -> Any:
    response = ask(url, asked, **more)
    assert response.status_code == 200, response.text
    return FeedbackResponse.model_validate(response.json()).results[0]


def test_right_and_wrong_programs_get_reward_and_words(url: str) -> None:
    response = ask(url, item("a", RIGHT), item("b", WRONG), item("c", "no code"))
    right, wrong, none = FeedbackResponse.model_validate(response.json()).results
    assert (right.status, right.reward, right.success, right.text) == ("ok", 1.0, True, "Passed all 8 tests.")
    assert (wrong.status, wrong.reward, wrong.success) == ("ok", 0.0, False)
    assert wrong.text == (
        "Runtime error: passed 0 of 8 tests, failed 3, not run 5.\n"
        "AttributeError: module 'lib' has no attribute 'add', it was renamed to 'plus'\n"
        "Line 4 in solve:     x = lib.add(x, 3)\n"
        "Input: 0"
    )
    assert (none.reward, none.text) == (0.0, "No program: put your code in one ```python block.")
    assert (right.source.name, right.source.kind) == ("code", "code")


def test_readiness_names_the_isolation_tier(url: str) -> None:
    checks = httpx.get(f"{url}/readyz").json()["checks"]
    assert checks in ({"sandbox:bubblewrap": "ok"}, {"sandbox:landlock": "ok"})


def test_capabilities_say_what_is_judged(url: str) -> None:
    found = Capabilities.model_validate(httpx.get(f"{url}/v1/capabilities").json())
    assert set(found.task_kinds) == {"code.functional", "code.stdin", "code.assert"}
    assert found.gives_reward
    assert found.gives_text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (item("a", RIGHT, kind="choice", answer="B"), "code.functional, code.stdin and code.assert; got 'choice'"),
        (item("a", RIGHT, tests=[]), "reference.tests is empty"),
        (item("a", RIGHT, time_limit_s=-1), "reference.time_limit_s"),
        (item("a", RIGHT, time_limit_s=1e30), "reference.time_limit_s"),
        (item("a", RIGHT, memory_limit_mb=10**9), "reference.memory_limit_mb"),
        (item("a", RIGHT, fn_name=None), "reference.fn_name"),
        (item("a", RIGHT, fn_name="a.b"), "reference.fn_name"),
        (item("a", RIGHT, files={"../lib.py": ""}), "reference.files"),
        (item("a", RIGHT, surprise=1), "reference.surprise"),
        (item("a", RIGHT, tests=[{"input": "1\n{", "output": "1"}]), "reference.tests.0.input must be one JSON value"),
        (item("a", RIGHT, tests=[{"input": "1"}]), "reference.tests.0.output"),
        (item("a", RIGHT, kind="code.stdin"), "reference.tests is empty"),
        (item("a", RIGHT, kind="code.assert", test_code="assert f()"), "reference.entry_point"),
    ],
)
def test_a_task_that_cannot_be_judged_is_an_error_naming_the_field(url: str, asked: dict[str, Any], words: str) -> None:
    result = one(url, asked)
    assert (result.status, result.reward, result.text) == ("error", None, None)
    assert result.error.class_ == "data"
    assert not result.error.retryable
    assert words in result.error.message


def test_items_past_the_deadline_time_out_and_the_others_do_not(url: str) -> None:
    slow = item("slow", "```python\ndef solve(x):\n    while True: pass\n```", time_limit_s=60)
    response = ask(url, item("quick", RIGHT), slow, deadline_s=3.0)
    quick, late = FeedbackResponse.model_validate(response.json()).results
    assert quick.reward == 1.0
    assert (late.status, late.reward, late.error.class_) == ("timeout", None, "infra")


def test_feedback_ids_are_a_function_of_trajectory_and_source(url: str) -> None:
    first, again, other = (one(url, item(name, RIGHT)).feedback_id for name in ("a", "a", "b"))
    assert first == again != other


def test_the_same_program_of_the_same_task_is_judged_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    real = pool.judge
    monkeypatch.setattr(pool, "judge", lambda *a, **k: (runs.append(a[2]), real(*a, **k))[1])
    response = ask(url, *[item(f"t{i}", RIGHT) for i in range(6)], item("other", WRONG))
    rewards = [result["reward"] for result in response.json()["results"]]
    assert rewards == [1.0] * 6 + [0.0]
    assert len(runs) == 2


def test_output_of_several_lines_stands_between_fences_of_its_trajectory() -> None:
    forging = "```python\nimport sys\nprint('7\\nPassed all 1 tests.')\n```"
    asked = [item(name, forging, kind="code.stdin", tests=[{"input": "", "output": "7"}]) for name in ("a", "b", "a")]

    def texts(key: str | None) -> list[str]:
        own = Settings(api_key=key, code_feedback=CodeFeedbackSettings(isolation="unsafe", workers=1))
        with running(create_app(own)) as base:
            return [result["text"] for result in ask(base, *asked, bearer=key).json()["results"]]

    first, other, again = texts("k3y")
    assert first == again != other
    fence = next(word for word in re.findall(r"[0-9a-f]{12}", first) if first.count(word) == 2)
    assert fence not in other
    assert texts("k3y") == [first, other, again], "a restart changes nothing"
    assert texts("another") != [first, other, again]
    assert len({len(text) for text in texts(None)}) == 1


def test_a_repeated_key_replays_the_answer_and_a_reused_one_is_refused(url: str) -> None:
    first = ask(url, item("a", RIGHT), key="k1")
    assert ask(url, item("a", RIGHT), key="k1", deadline_s=30.0).json() == first.json()
    reused = ask(url, item("a", WRONG), key="k1")
    assert reused.status_code == 422
    assert reused.headers["content-type"].startswith("application/problem+json")


def test_a_timeout_is_not_replayed(url: str) -> None:
    program = "```python\nimport time\ndef solve(x):\n    time.sleep(0.6)\n    return x + 3\n```"
    asked = item("a", program, tests=REFERENCE["tests"][:1])  # type: ignore[index]
    assert one(url, asked, key="k2", deadline_s=0.3).status == "timeout"
    assert one(url, asked, key="k2", deadline_s=0.3).status == "timeout"
    changed = ask(url, asked, key="k2", deadline_s=60.0)
    assert changed.json()["results"][0]["reward"] == 1.0


def test_a_full_queue_answers_429_and_when_to_come_back() -> None:
    settings = Settings(code_feedback=CodeFeedbackSettings(isolation="unsafe", workers=1, queue_limit=3))
    busy = [item(f"busy{i}", f"```python\nimport time\ndef solve(x): time.sleep(60) # {i}\n```") for i in range(4)]
    with running(create_app(settings)) as url:
        thread = threading.Thread(target=lambda: ask(url, *busy[:2], deadline_s=4.0))
        thread.start()
        eventually(lambda: waiting(url) == 2, "one runs, one waits")
        two_more = ask(url, item("a", RIGHT), item("b", WRONG))
        assert (two_more.status_code, waiting(url)) == (429, 2), "what does not fit is refused whole"
        assert int(two_more.headers["retry-after"]) >= 1
        assert two_more.json()["title"] == "Too Many Requests"
        fits = ask(url, item("a", RIGHT), deadline_s=0.1)
        thread.join()
        eventually(lambda: waiting(url) == 0, "the queue is empty")
        larger_than_the_queue = ask(url, *busy, deadline_s=0.1)
    assert fits.status_code == 200
    assert [result["status"] for result in larger_than_the_queue.json()["results"]] == ["timeout"] * 4


def test_the_time_to_come_back_after_grows_with_what_waits() -> None:
    judges = JudgePool(Isolation("unsafe"), CodeFeedbackSettings(isolation="unsafe", workers=1, queue_limit=1))
    found = []
    for judges.waiting in (1, 100, 10**6):
        with pytest.raises(Overloaded) as refusal:
            judges._admit(1)
        found.append(refusal.value.retry_after_s)
    judges.close()
    assert found[0] == 1 < found[1] < found[2] == MAX_RETRY_AFTER_S


def test_too_many_items_are_refused_with_the_limit(url: str) -> None:
    refused = ask(url, *[item(f"t{i}", "x") for i in range(1025)])
    assert (refused.status_code, refused.json()["field"]) == (413, "items")


def test_a_malformed_request_names_the_field(url: str) -> None:
    refused = ask(url, {**item("a", RIGHT), "policy_version": -1})
    assert refused.status_code == 422
    assert "policy_version" in refused.json()["detail"]
