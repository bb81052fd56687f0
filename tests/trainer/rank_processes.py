"""Several ranks of a learner, over gloo, each forked from a server that has imported torch already; and what they do.

Functions that run on ranks take (ranks, ...) and return something that can be pickled; each of them runs on every rank.
"""

from __future__ import annotations

import os
import shutil
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.models.qwen3.modeling_qwen3
from fork_server import fork_server
from trainer_builders import random_groups

from shared.settings import Settings
from trainer import learner
from trainer.batch_store import StepBatch
from trainer.checkpoint import Checkpoints
from trainer.launch import joined
from trainer.ranks import Ranks
from trainer.sharding import whole
from trainer.training import Training

# Imported where they are first used, which would be in every rank anew.
LATE_IMPORTS = (transformers.models.qwen3.modeling_qwen3, learner)
WITHIN_S = 60.0


def on_ranks(size: int, *calls: Callable[[Ranks], Any], lora: bool = False) -> list[list[Any]]:
    """What each of the calls, one after the other, returns on each of `size` ranks, by rank. With `lora` they are ranks
    that train an adapter. Raises AssertionError with the traceback of one that failed."""
    context = fork_server("rank_processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, processes = [], []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_be_rank, args=(rank, size, port, calls, lora, sender), daemon=True)
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        results = [pipe.recv() if pipe.poll(WITHIN_S) else ("it is stuck", None) for pipe in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    failures = [error for error, _ in results if error is not None]
    assert not failures, failures[0]
    return [values for _, values in results]


def settings_of(model: Path, root: Path, *, lora: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Of a run of 2 prompts with 3 rollouts each, on the CPU; of an adapter if `lora` is given."""
    tree: dict[str, Any] = {
        "run": {"name": "run", "dir": str(root), "seed": 5, "steps": 6},
        "model": {"path": str(model), "device": "cpu", "lora": lora},
        "rollout": {"prompts_per_step": 2, "samples_per_prompt": 3},
        "optimizer": {"warmup_steps": 0},
    }
    return Settings.model_validate(tree | changes)


def learn(
    ranks: Ranks, settings: Settings, begin: int, end: int, *, resume: bool = False, save: bool = False
) -> dict[str, Any]:
    """Steps `begin` to `end`, from the newest checkpoint and into one if asked: metrics and
    lifts by step, weights, moments."""
    training = Training(settings, ranks)
    checkpoints = Checkpoints(Path(settings.run.dir) / "checkpoints", keep=9, ranks=ranks)
    if resume:
        state = checkpoints.load_newest()
        assert state is not None and state["step"] == begin
        training.load_state_dict(state)
    found = state_of(training)
    metrics, lifts = [], []
    for step in range(begin, end):
        metrics.append(training.step(StepBatch(step=step, groups=random_groups(step, samples=3)))[1])
        lifts.append(training.token_lifts)
    if save:
        checkpoints.save(end, training.state_dict())
    return {
        "metrics": metrics,
        "token_lifts": lifts,
        "at_start": found,
        "at_end": state_of(training),
        "digest": training.weights_digest(),
    }


def state_of(training: Training) -> dict[str, Any]:
    """Every tensor of a training's state, whole, by the keys that lead to it."""
    state = training.state_dict()
    return dict(_tensors({key: state[key] for key in ("policy", "optimizer", "algorithm")}))


def assert_same(found: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    """The same tensors: within a tolerance, or to the last bit where there is none."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **({"rtol": 0, "atol": 0} | tolerance), err_msg=name)


def assert_as_one(found: dict[str, Any], one: dict[str, Any]) -> None:
    """What several ranks have learned is what one has, to rounding: figures, lifts, weights and moments."""
    for several, alone in zip(found["metrics"], one["metrics"], strict=True):
        assert several.keys() == alone.keys()
        for name, value in alone.items():
            if not name.startswith("seconds/"):
                assert several[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    assert_same(found["at_end"], one["at_end"], rtol=1e-4, atol=2e-5)
    for several, alone in zip(found["token_lifts"], one["token_lifts"], strict=True):
        assert several.keys() == alone.keys()
        for row, lifts in alone.items():
            assert several[row] == pytest.approx(lifts, rel=1e-4, abs=1e-4)


def publish(ranks: Ranks, settings: Settings, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Canary and published files of the initial model."""
    training = Training(settings, ranks)
    canary = training.policy.canary()
    if ranks.leads:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    return canary, training.policy.save(directory, tokenizer=True, dtype=dtype)


class Unled(Ranks):
    """Ranks that all make the calls themselves, and wait for no order of rank 0's."""

    def order(self, name: str, *arguments: Any) -> None:
        pass


def _tensors(state: Any, name: str = "") -> Any:
    if isinstance(state, torch.Tensor):
        yield name, whole(state).clone()
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(value, f"{name}/{key}")


def _be_rank(rank: int, size: int, port: int, calls: Sequence[Callable[[Ranks], Any]], lora: bool, sender: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        model = {"device": "cpu", "lora": {} if lora else None}
        with joined(Settings.model_validate({"model": model})) as ranks:
            value = [call(Unled(**vars(ranks))) for call in calls]
        # As bytes: torch would share the tensors' memory with a process that has ended.
        sender.send((None, _plain(value)))
    except BaseException:  # noqa: BLE001
        sender.send((traceback.format_exc(), None))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
