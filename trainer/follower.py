"""What the ranks beside rank 0 do: the training steps, checkpoints and publications that rank 0 orders, with their
share of the rows and of the weights. They talk to no service and write nothing but their part of a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.settings import Settings
from trainer.checkpoint import Checkpoints
from trainer.checkpoint_files import CHECKPOINTS
from trainer.ranks import Ranks
from trainer.training import Training


def follow(settings: Settings, ranks: Ranks) -> None:
    """Until rank 0 dismisses this one. Whoever asks all ranks to stop means rank 0, which ends after its step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    training = Training(settings, ranks)
    directory = Path(settings.run.dir) / settings.run.name / CHECKPOINTS
    checkpoints = Checkpoints(directory, keep=settings.learner.keep_checkpoints, ranks=ranks)

    def restore(up_to: int | None) -> None:
        state = checkpoints.load_newest(up_to=up_to)
        if state is not None:
            training.load_state_dict(state)

    known: dict[str, Callable[..., Any]] = {
        "step": training.step,
        "observe_teacher": training.observe_teacher,
        "digest": training.weights_digest,
        "canary": training.policy.canary,
        "save": lambda path, tokenizer, dtype: training.policy.save(path, tokenizer=tokenizer, dtype=dtype),
        "checkpoint": lambda step: checkpoints.save(step, training.state_dict()),
        "restore": restore,
    }
    for name, arguments in ranks.orders():
        known[name](*arguments)
