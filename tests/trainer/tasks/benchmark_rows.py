"""Rows in the benchmarks' own formats, made up; and where the real ones are."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("VPD_BENCHMARK_DATA") or Path(__file__).parents[4] / "shared" / "data")
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not here (VPD_BENCHMARK_DATA)")
STARTER = "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        "


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def packed(tests: Any) -> str:
    """A private cell as the official file has it."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def cases(count: int, testtype: str = "stdin", first: int = 0) -> list[dict[str, str]]:
    return [{"input": f"{i}\n[{i}]", "output": str(2 * i), "testtype": testtype} for i in range(first, first + count)]


def official(name: str, *, testtype: str = "stdin", private: int = 8, **changes: Any) -> dict[str, Any]:
    """A row of `code_generation_lite`."""
    functional = testtype == "functional"
    return {
        "question_title": name,
        "question_content": f"Question {name}: add.",
        "platform": "leetcode" if functional else "atcoder",
        "question_id": name,
        "contest_id": "abc",
        "contest_date": "2025-03-01T00:00:00",
        "starter_code": STARTER if functional else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases(2, testtype)),
        "private_test_cases": packed(cases(private, testtype, first=100)),
        "metadata": json.dumps({"func_name": "add"} if functional else {}),
        **changes,
    }


def exported(name: str, **changes: Any) -> dict[str, Any]:
    """A row of SDPO's export of SciKnowEval."""
    prompt = f"Question {name}?\n\nA: one\nB: two\nPlease reason step by step."
    return {"idx": 0, "kind": "mcq", "system": "\nChoose.\n", "prompt": prompt, "answer": "B", **changes}


def of_the_hub(name: str, **changes: Any) -> dict[str, Any]:
    """A row of SciKnowEval as the hub has it."""
    return {
        "question": f"Question {name}?",
        "choices": {"text": ["one", "two", "three", "four"], "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
        "type": "mcq-4-choices",
        "domain": "Biology",
        "details": {"level": "L3", "task": "t", "subtask": "s", "source": "x"},
        **changes,
    }
