"""Where the time of a training run goes: steps a minute and the share of each phase, from a run's timings.

    ./vpd up --set run.name=bench --set run.steps=30
    .venv/bin/python bench/loop.py runs/bench

Shares are of the wall time between the first and the last step. The limit it is compared with is the time
that the M- and E-steps alone took: a loop that did nothing but learn would run at ratio 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PHASES = ("rollout", "feedback", "m_step", "e_step", "publish")


def main(directory: Path) -> None:
    steps = [json.loads(line) for line in (directory / "timings.jsonl").read_text().splitlines()]
    if len(steps) < 2:
        raise SystemExit(f"{directory} holds {len(steps)} steps; at least 2 are needed.")
    counted = steps[1:]
    wall_s = counted[-1]["wall_s"] - steps[0]["wall_s"]
    seconds = {phase: sum(r.get(f"seconds/{phase}", 0.0) for r in counted) for phase in PHASES}
    print(f"{len(counted)} steps in {wall_s:.1f} s: {60 * len(counted) / wall_s:.1f} steps a minute")
    for phase, spent in seconds.items():
        print(f"  {phase:<9} {spent:7.2f} s  {100 * spent / wall_s:5.1f} %")
    rest = wall_s - sum(seconds.values())
    print(f"  {'rest':<9} {rest:7.2f} s  {100 * rest / wall_s:5.1f} %   (evaluation, checkpoints, queue, waiting)")
    learning = seconds["m_step"] + seconds["e_step"]
    print(f"wall time / (M-step + E-step) = {wall_s / learning:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python bench/loop.py RUN_DIRECTORY")
    main(Path(sys.argv[1]))
