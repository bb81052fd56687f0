"""A process that trains one step and prints how far its memory grew, in bytes: what the estimate is compared with.

`python training_memory.py MODEL_DIRECTORY KEY=VALUE...`: settings, as for --set.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from trainer_builders import RUN_ID, group, said, trajectory

from shared.load_settings import load_settings
from trainer.batch_store import StepBatch
from trainer.training import Training


def main() -> None:
    settings = load_settings(overrides=[f"model.path={sys.argv[1]}", *sys.argv[2:]], environ={})
    before = _kib("VmRSS")
    training = Training(settings)
    for step in range(2):  # AdamW makes its moments in the first
        training.step(_batch(step, settings.rollout.prompts_per_step, settings.rollout.max_tokens))
    # Not ru_maxrss: that is at least what the process had that started this one.
    print((_kib("VmHWM") - before) * 1024)


def _kib(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


def _batch(step: int, prompts: int, tokens: int) -> StepBatch:
    """Groups of a failure with feedback and a success, of `tokens` response tokens each."""
    rng = random.Random(step)
    groups = []
    for g in range(prompts):
        name = f"{RUN_ID}-s{step:06d}-g{g:03d}"
        rows = [
            trajectory(
                r,
                group=name,
                success=bool(r),
                feedback=[said("no")],
                token_ids=[rng.randrange(5, 261) for _ in range(tokens)],
                logprobs=[-6.0] * tokens,
            )
            for r in range(2)
        ]
        groups.append(group(rows, index=g, step=step))
    return StepBatch(step=step, groups=groups)


if __name__ == "__main__":
    main()
