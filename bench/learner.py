"""A training step beside TRL's: an SDPO step of ours and of TRL's SDPOTrainer, and a VPD cycle, on one model and batch.

    .venv/bin/python -m bench.learner [--shape NAME] [--top-k K] [--rounds N] [--device cuda]

SDPO: forward and backward pass on (prompt, response), teacher's pass on (prompt with feedback, response), reverse KL
over the whole vocabulary or over the top K and a tail, clipped gradient, AdamW; live teacher, no importance weights.
VPD cycle: five such M-steps and one E-step on the rows of the last. The model is random, of the Qwen3 architecture.
Each measurement has a process of its own; ours and TRL's take turns, and medians are printed. `peak` is the largest
resident memory (on a GPU: allocated) above that with the loaded model, so with gradients and AdamW's moments. The two
must have the same gradient norm in their first step. On a GPU they compute in bfloat16 over float32 weights, and MFU is
printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pydantic

FULL = 0
CYCLE = 5
"""M-steps to an E-step."""


@dataclass(frozen=True)
class Shape:
    """A model, and `rows` responses of `tokens` tokens after prompts of `prompt` tokens (the teacher's: `informed`)."""

    hidden: int = 256
    layers: int = 4
    intermediate: int = 768
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocabulary: int = 151_936
    rows: int = 4
    tokens: int = 256
    prompt: int = 64
    informed: int = 128


SHAPES = {
    "small": Shape(),
    "tiny": Shape(hidden=32, layers=1, intermediate=32, head_dim=8, vocabulary=2_000, tokens=12, prompt=4, informed=6),
    "qwen3-0.6b": Shape(1024, 28, 3072, 16, 8, 128, 151_936, 8, 1024, 256, 512),
    "qwen3-1.7b": Shape(2048, 28, 6144, 16, 8, 128, 151_936, 8, 1024, 256, 512),
}


class Measured(pydantic.BaseModel):
    """What a process of bench.learner_side has found."""

    seconds: float
    """Of a step; of VPD, of a cycle."""
    cpu_seconds: float
    """The same, of all cores: what a busy machine changes least."""
    e_step_share: float | None = None
    """The E-step's time as a share of the five M-steps'."""
    peak_gib: float
    grad_norm: float
    tflop: float
    """In the matrix products of the step or cycle."""
    peak_tflops: float | None = None
    """Of the device in bfloat16, where it is known."""


def main() -> None:
    arguments = _parser().parse_args()
    shape = SHAPES[arguments.shape]
    tokens = shape.rows * shape.tokens
    print(f"{arguments.shape}: {shape}, {arguments.device}")
    for k in arguments.top_k:
        print(f"\n{'whole vocabulary' if k == FULL else f'top {k} and tail'}")
        measure = partial(in_a_process, shape=arguments.shape, top_k=k, device=arguments.device)
        found = compare(measure, arguments.rounds, tolerance=1e-3 if arguments.device == "cpu" else 0.05)
        for who, side in found.items():
            steps = CYCLE if who == "vpd" else 1
            print(f"  {who:<5} {_line(side, found['trl'], steps, steps * tokens)}")


def _line(mine: Measured, theirs: Measured, steps: int, tokens: int) -> str:
    """What was measured of `steps` steps with `tokens` response tokens, beside TRL's step."""
    line = f"{mine.seconds:7.2f} s, CPU {mine.cpu_seconds:6.2f} s, {tokens / mine.seconds:5.0f} tokens/s"
    line += f", peak {mine.peak_gib:5.2f} GiB"
    if mine is not theirs:
        speed, by_cpu = steps * theirs.seconds / mine.seconds, steps * theirs.cpu_seconds / mine.cpu_seconds
        line += f"; {speed:.2f} times TRL's speed, by CPU {by_cpu:.2f}"
        line += f"; {mine.peak_gib / theirs.peak_gib:.3f} of its memory"
    if mine.e_step_share is not None:
        line += f"; E-step {100 * mine.e_step_share:.0f} % of the M-steps"
    if mine.peak_tflops is not None:
        line += f"; MFU {100 * mine.tflop / mine.seconds / mine.peak_tflops:.1f} %"
    return line


def compare(side: Callable[[str], Measured], rounds: int, *, tolerance: float) -> dict[str, Measured]:
    """Medians of what `side` measures of each over the rounds, in which they take turns.

    Raises AssertionError where the gradient norms of ours and TRL's differ by more than `tolerance`, a share.
    """
    runs: dict[str, list[Measured]] = {"trl": [], "sdpo": [], "vpd": []}
    for _ in range(rounds):
        for who, kept in runs.items():
            kept.append(side(who))
    medians = {who: _median(kept) for who, kept in runs.items()}
    ratio = medians["sdpo"].grad_norm / medians["trl"].grad_norm
    assert abs(ratio - 1) < tolerance, f"gradient norms differ by a factor of {ratio}"
    return medians


def _median(runs: list[Measured]) -> Measured:
    found = {name: [getattr(run, name) for run in runs] for name in Measured.model_fields}
    return Measured(**{name: None if None in values else statistics.median(values) for name, values in found.items()})


def in_a_process(who: str, shape: str, top_k: int, device: str) -> Measured:
    """What bench.learner_side measures of `who` in a process that has done nothing else."""
    command = [sys.executable, "-m", "bench.learner_side", who, shape, str(top_k), device]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {out.returncode}:\n{out.stderr}")
    return Measured.model_validate_json(out.stdout.splitlines()[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.learner")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--top-k", type=int, nargs="*", default=[FULL, 100], help="0: the whole vocabulary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser


if __name__ == "__main__":
    main()
