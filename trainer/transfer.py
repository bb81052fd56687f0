"""Handing weights to vLLM from GPU to GPU, by vLLM's own weight transfer: NCCL between GPUs, CUDA IPC on one.

vLLM's trainer side does the work and must be installed beside the trainer. It speaks to the inference service through
`_ControlPlane`, which makes one publication of the steps that vLLM has for an update. Written against vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

from shared.errors import InfrastructureError, SettingsError
from shared.inference_client import InferenceClient
from shared.protocol import TransferInit, WeightTransfer
from trainer.policy import Policy
from trainer.publisher import Announce

Backend = Literal["nccl", "ipc"]


class Sender(Protocol):
    """vLLM's `TrainerWeightTransferEngine`."""

    def send_weights(self) -> None:
        """Send all parameters, with one call of each of the control plane's steps."""


Connect = Callable[["_ControlPlane", Policy, Backend, int], Sender]
"""(control plane, policy, backend, workers of the engine) -> a sender that both sides have joined. Blocks."""


class Transfer:
    """A transport whose weights are stored nowhere.

    The first publication, and each after one that failed, makes both sides join anew: a group with a dead member hangs.
    """

    def __init__(self, backend: Backend, inference: InferenceClient, *, timeout_s: float, connect: Connect) -> None:
        self._backend = backend
        self._inference = inference
        self._timeout_s = timeout_s
        self._connect = connect
        self._sender: Sender | None = None
        self._control = _ControlPlane(backend, inference)

    async def deliver(self, policy: Policy, version: int, announce: Announce) -> None:
        """Send the weights while the publication is being answered. Raises what `announce` raises, and
        InfrastructureError when the transfer fails or is not done in time."""
        del version
        self._control.begin(asyncio.get_running_loop(), announce)
        sender, self._sender = self._sender, None
        try:
            async with asyncio.timeout(self._timeout_s):
                if sender is None:
                    group = await self._inference.transfer_group()
                    sender = await _in_thread(
                        lambda: self._connect(self._control, policy, self._backend, group.world_size)
                    )
                await _in_thread(sender.send_weights)
        except TimeoutError as error:
            raise InfrastructureError(
                f"The weights were not transferred by {self._backend} within {self._timeout_s:g} s: is the engine "
                "alive, and do the GPUs reach each other?"
            ) from error
        self._sender = sender


class _ControlPlane:
    """The four calls that vLLM's trainer side makes, in threads of its own (`VLLMWeightSyncClient`)."""

    def __init__(self, backend: Backend, inference: InferenceClient) -> None:
        self._backend = backend
        self._inference = inference
        self._loop: asyncio.AbstractEventLoop | None = None
        self._announce: Announce | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, announce: Announce) -> None:
        """Of the next publication."""
        self._loop, self._announce = loop, announce

    def own_address(self) -> str:
        """The address of this machine that the inference service sees."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing: it makes the kernel choose the interface.
            probe.connect((self._inference.host, 9))
            return str(probe.getsockname()[0])

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Make the engine's workers join; returns when they have."""
        self._wait_for(self._inference.join_transfer(TransferInit(backend=self._backend, init=init_info)))

    def start_weight_update(self) -> None:
        """The service starts the update itself, once it has checked what is coming."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Publish; returns when the version is served."""
        assert self._announce is not None
        transfer = WeightTransfer(backend=self._backend, update=_as_json(update_info))
        self._wait_for(self._announce({"transfer": transfer}))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The service has finished the update already."""

    def _wait_for(self, call: Coroutine[Any, Any, Any]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(call, self._loop).result()


def connect(control: _ControlPlane, policy: Policy, backend: Backend, workers: int) -> Sender:
    """vLLM's sender for `backend`. Raises SettingsError where vLLM is not installed beside the trainer."""
    try:
        from vllm.distributed.weight_transfer.base import ModuleSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    except ImportError as error:
        raise SettingsError(
            f"inference.publish={backend} needs vLLM in the trainer's own environment ({error}): install it there, or "
            "set inference.publish=files."
        ) from error
    if backend == "ipc":
        # In one piece: the pieces of a packed update would be several publications.
        info: Any = IPCTrainerInitInfo(rank=0, packed=False)
    else:
        info = NCCLTrainerInitInfo(
            rank=0, master_address=control.own_address(), master_port=_free_port(), world_size=workers + 1
        )
    sender: Sender = WeightTransferTrainerFactory.trainer_init(
        info, client=control, source=ModuleSource(policy.network)
    )
    return sender


async def _in_thread(work: Callable[[], Any]) -> Any:
    """The result of `work`, in a thread that does not keep the process from ending: NCCL may wait for ever."""
    loop, result = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)

    def run() -> None:
        try:
            value, error = work(), None
        except BaseException as raised:  # noqa: BLE001
            value, error = None, raised
        loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="weight transfer", daemon=True).start()
    return await result


def _as_json(update_info: dict[str, Any]) -> dict[str, Any]:
    """CUDA handles, which JSON cannot carry, pickled as vLLM's workers take them."""
    handles = update_info.get("ipc_handles")
    if handles is None:
        return {name: value for name, value in update_info.items() if value is not None}
    others = {name: value for name, value in update_info.items() if name != "ipc_handles" and value is not None}
    return others | {"ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
