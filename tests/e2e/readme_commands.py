"""The README's commands, and how a test runs them: made short by the environment, with a user's own paths filled in."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n?```json\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("docker compose up", "./vpd test")


def blocks(document: str = README) -> list[tuple[str, str | None]]:
    """A document's shell blocks, each with the JSON that is printed below it, if any."""
    return [(command, shown or None) for command, shown in BLOCK.findall(document)]


def shape(value: Any) -> Any:
    """The keys of a JSON value, all the way down."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None


def commands(block: str) -> list[str]:
    """The block's lines, continued lines joined, comments and those that are run elsewhere left out."""
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


def vpd_commands(*, vllm: bool) -> list[str]:
    """The lines that run `vpd`: those that need vLLM, or the others."""
    lines = [line for block, _ in blocks() for line in commands(block) if "./vpd" in line]
    return [line for line in lines if ("--engine vllm" in line) == vllm]


def shell(command: str, environment: dict[str, str]) -> str:
    """Standard output of a command that succeeds, run from the project's directory."""
    filled = command.replace("my_tasks.jsonl", environment["TASKS"])
    filled = filled.replace("Qwen/Qwen3-0.6B", "builtin:renamed_library")
    script = ["bash", "-ec", filled]
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{filled}\n{done.stdout}\n{done.stderr}"
    return done.stdout
