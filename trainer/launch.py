"""Starting the ranks of a learner, and joining them.

Who says how many there are: the environment, as torchrun sets it (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT), else `learner.ranks`, for which `launch` starts this command again so many times on this machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import FrameType

import structlog
import torch
import torch.distributed as dist

from shared.errors import InfrastructureError, SettingsError
from shared.settings import Settings
from shared.tether import tethered
from trainer.ranks import ALONE, Ranks

log = structlog.get_logger("ranks")
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_POLL_S = 0.05
_JOIN_S = 300
_BETWEEN_ORDERS = timedelta(days=365)
"""Rank 0 may wait that long for rollouts; one that has died is noticed by its connections."""


def must_launch(settings: Settings) -> bool:
    """Whether the settings ask for several ranks and nobody has started them."""
    return settings.learner.ranks > 1 and "WORLD_SIZE" not in os.environ


def launch(settings: Settings) -> int:
    """This very command once a rank, on this machine. 0 once all have ended, else the code of the first that failed.

    If a rank fails the others are killed. If a signal killed it, it kills this process too: whoever started it sees
    how it ended, and may start it again. SIGTERM and SIGINT go to rank 0, which ends the others.
    """
    size = settings.learner.ranks
    _check(settings, size, local=size)
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // size)
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": str(threads)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    command = tethered([sys.executable, *sys.orig_argv[1:]])
    ranks: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        ranks[0].send_signal(number)

    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        # A session of its own: Ctrl-C in a terminal would reach every rank.
        ranks.append(subprocess.Popen(command, env=os.environ | shared | own, start_new_session=True))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, forward)
    return _wait(ranks)


@contextlib.contextmanager
def joined(settings: Settings) -> Iterator[Ranks]:
    """Inside, this process is one of the ranks that the environment names, or alone.

    Raises SettingsError where these ranks cannot train these settings, InfrastructureError where they do not meet.
    Exits with 1, without a word, where another rank has ended: that one has said why.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1:
        yield ALONE
        return
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise SettingsError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set: start the ranks with torchrun, or unset "
            "WORLD_SIZE and set learner.ranks."
        )
    rank = int(os.environ["RANK"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    _check(settings, size, local=local_rank + 1)
    device = _device(settings, local_rank)
    with _no_word_of_lost_ranks():
        ranks = _join(rank, size, device, divided=settings.model.lora is None)
        yield ranks
        ranks.gathered(None)  # none leaves while another still listens
        dist.destroy_process_group()


def _join(rank: int, size: int, device: torch.device, *, divided: bool) -> Ranks:
    """`divided`: the weights are."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=_JOIN_S))
    except (dist.DistError, RuntimeError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InfrastructureError(
            f"Rank {rank} of {size} did not meet the others at {address} ({str(error).splitlines()[0]}): start all of "
            "them, with the same MASTER_ADDR and MASTER_PORT."
        ) from error
    mesh = dist.device_mesh.init_device_mesh(device.type, (size,)) if divided else None
    orders = dist.new_group(backend="gloo", timeout=_BETWEEN_ORDERS)
    return Ranks(rank, size, device, mesh, orders)


def _check(settings: Settings, size: int, *, local: int) -> None:
    """Raise SettingsError where `size` ranks, `local` of them on this machine, cannot train these settings."""
    rows = settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt
    if rows < size:
        raise SettingsError(
            f"learner.ranks: {size} ranks divide the rollouts of a step, which has {rows}; raise "
            "rollout.prompts_per_step or take fewer ranks."
        )
    if settings.inference.publish != "files":
        raise SettingsError(
            f"inference.publish={settings.inference.publish} sends the weights of one rank, and learner.ranks is "
            f"{size}; set inference.publish=files."
        )
    gpus, wanted = torch.cuda.device_count(), settings.model.device
    if gpus < local and (wanted == "cuda" or (wanted == "auto" and gpus)):
        raise SettingsError(
            f"learner.ranks: {size} ranks need a GPU each, and this machine has {gpus}; take fewer ranks, or set "
            "model.device=cpu."
        )


def _device(settings: Settings, local_rank: int) -> torch.device:
    if settings.model.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def _no_word_of_lost_ranks() -> Iterator[None]:
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        log.warning("another rank has ended; so does this one", error=str(error).splitlines()[0][:200])
        # At once: what waits for the other rank in a thread of torch would keep the interpreter from ending.
        os._exit(1)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    codes: list[int | None] = [None] * len(ranks)
    while None in codes and not any(codes):
        time.sleep(_POLL_S)
        codes = [process.poll() for process in ranks]
    for process in ranks:
        process.kill()
        process.wait()
    if killed := [-code for code in codes if code is not None and code < 0]:
        if killed[0] != signal.SIGKILL:
            signal.signal(killed[0], signal.SIG_DFL)
        os.kill(os.getpid(), killed[0])
    return next((code for code in codes if code), 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
