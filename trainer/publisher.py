"""Publishing a policy version: write it aside, rename, tell the inference service, drop the old ones."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from shared.inference_client import InferenceClient
from shared.protocol import PolicyPublication
from trainer.policy import Policy
from trainer.run_directory import disk_error

_KEPT = 2


class Publisher:
    """Version k is the policy after k training steps, below `runs/<name>/policy/`."""

    def __init__(self, directory: Path, inference: InferenceClient, run_id: str) -> None:
        self.directory = directory
        self.inference = inference
        self.run_id = run_id

    async def publish(self, policy: Policy, version: int) -> None:
        """The service serves the version when this returns. Raises InfrastructureError where disk or service fail,
        DataError where the service refuses the weights."""
        path = self.directory / f"v{version:06d}"
        try:
            digest = _write(policy, path)
        except OSError as error:
            raise disk_error(error, path) from error
        await self.inference.publish(
            PolicyPublication(run_id=self.run_id, version=version, path=str(path.resolve()), sha256=digest)
        )
        for old in sorted(self.directory.glob("v*"))[:-_KEPT]:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)


def _write(policy: Policy, path: Path) -> str:
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    policy.save(temporary)
    weights = temporary / "model.safetensors"
    with weights.open("rb+") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    return digest
