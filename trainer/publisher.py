"""Publishing a policy version: its weights, by whichever transport the settings name, and its canary."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from shared.inference_client import InferenceClient
from shared.protocol import PolicyPublication
from shared.settings import InferenceSettings
from trainer.disk import disk_error
from trainer.lora import ADAPTER_FILE, save_adapter
from trainer.policy import Policy

_KEPT = 2

Announce = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
"""Publishes with these fields of the publication, `path` and `sha256` or `transfer`; returns when it is served."""


class Transport(Protocol):
    """How weights reach the engine."""

    async def deliver(self, policy: Policy, version: int, announce: Announce) -> None:
        """Bring the weights and await `announce`, before, during or after. Raises what `announce` raises, and
        InfrastructureError."""


class Publisher:
    """Version k is the policy after k training steps."""

    def __init__(self, transport: Transport, inference: InferenceClient, run_id: str) -> None:
        self._transport = transport
        self._inference = inference
        self._run_id = run_id

    async def publish(self, policy: Policy, version: int) -> None:
        """The service serves the version when this returns, and its canary has shown it. Raises InfrastructureError
        where disk or service fail, DataError where the service refuses the weights."""
        canary = policy.canary()

        async def announce(fields: dict[str, Any]) -> None:
            named = {"run_id": self._run_id, "version": version, "canary": canary}
            await self._inference.publish(PolicyPublication(**named, **fields))

        await self._transport.deliver(policy, version, announce)

    async def serves(self, version: int) -> bool:
        """Whether the service serves that version of this run. Raises InfrastructureError."""
        state = await self._inference.policy()
        return (state.run_id, state.version, state.blocked) == (self._run_id, version, None)


class Files:
    """Checkpoints below `directory`, `runs/<name>/policy/`, on a volume that the service sees as well."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def deliver(self, policy: Policy, version: int, announce: Announce) -> None:
        """Write the version aside, rename, announce, drop the old ones."""
        path = self._directory / f"v{version:06d}"
        adapter = policy.lora is not None and policy.lora.publish == "adapter"
        try:
            digest = _write(policy, path, adapter=adapter)
        except OSError as error:
            raise disk_error(error, path) from error
        await announce({"path": str(path.resolve()), "sha256": digest} | ({"adapter": True} if adapter else {}))
        for old in sorted(self._directory.glob("v*"))[:-_KEPT]:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)


def make_transport(settings: InferenceSettings, directory: Path, inference: InferenceClient) -> Transport:
    """The transport that `inference.publish` names."""
    if settings.publish == "files":
        return Files(directory)
    from trainer.transfer import Transfer, connect

    return Transfer(settings.publish, inference, timeout_s=settings.timeout_s, connect=connect)


def _write(policy: Policy, path: Path, *, adapter: bool) -> str:
    """Whole weights, or an adapter alone; the digest of the file that holds them."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    digest = None
    if adapter:
        save_adapter(policy.network, temporary)
    else:
        digest = policy.save(temporary, dtype=policy.dtype)
    weights = temporary / (ADAPTER_FILE if adapter else "model.safetensors")
    with weights.open("rb+") as file:
        os.fsync(file.fileno())
        digest = digest or hashlib.file_digest(file, "sha256").hexdigest()
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    return digest
