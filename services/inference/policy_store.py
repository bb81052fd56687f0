"""Which policy version is served: publishing one, waiting for the next, remembering it across restarts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from services.inference.engine import Engine
from shared.errors import DataError, EngineFailure
from shared.protocol import PolicyPublication, PolicyState, Wire
from shared.settings import Settings

POINTER_FILE = "current_policy.json"
WEIGHTS_FILE = "model.safetensors"
# How often a long poll looks whether its client is still there: without, it would hold up the end of the server.
GONE_CHECK_S = 0.5


class Pointer(Wire):
    """What `current_policy.json` holds: the publication served, and the model it is a policy of."""

    model: str = Field(min_length=1)
    publication: PolicyPublication


class PolicyStore:
    """The publication that is served (None: the model the engine was started with).

    `current_policy.json` in the policy root is written before a publication is answered, so that a restarted
    service serves it again.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._model = settings.model.path
        self._root = Path(settings.inference.policy_root).expanduser().resolve()
        self._engine = engine
        self._served: PolicyPublication | None = None
        self._changed = asyncio.Condition()
        self._publishing = asyncio.Lock()

    @property
    def version(self) -> int:
        """The version served; 0 for the initial model."""
        return self._served.version if self._served else 0

    @property
    def state(self) -> PolicyState:
        """What is served now."""
        served, context = self._served, self._engine.info.max_context
        if served is None:
            return PolicyState(model=self._model, max_context=context)
        return PolicyState(
            run_id=served.run_id,
            version=served.version,
            sha256=served.sha256,
            model=self._model,
            max_context=context,
        )

    async def publish(self, publication: PolicyPublication) -> PolicyState:
        """Serve a version, from the next batch on; what is served already is not loaded again.

        Raises DataError, and goes on serving the old one, when the checkpoint is not what was announced or does
        not fit; EngineFailure when it could not be loaded or recorded.
        """
        async with self._publishing:
            if not self._serves(publication):
                await self._load(publication)
            # Also for a repeat: the first attempt may have failed just here.
            await asyncio.to_thread(self._record, publication)
            return self.state

    async def restore(self) -> None:
        """Serve what was served before the restart; a pointer that leads nowhere is logged and left alone."""
        pointer = await asyncio.to_thread(self._recorded)
        if pointer is None:
            return
        try:
            await self._load(pointer.publication)
        except DataError as error:
            _log().warning("the published policy is gone, serving the initial model", reason=str(error))

    async def wait_unlike(
        self, unlike: tuple[str | None, int], timeout_s: float, gone: Callable[[], Awaitable[bool]]
    ) -> PolicyState:
        """The state as soon as it is not this run and version; as it is after `timeout_s` seconds, or soon after
        `gone()` turns true or the server stops."""

        def differs() -> bool:
            return (self.state.run_id, self.state.version) != unlike

        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            while not differs() and (left_s := deadline - asyncio.get_running_loop().time()) > 0 and not await gone():
                await self._wait_for(differs, min(left_s, GONE_CHECK_S))
        except asyncio.CancelledError:
            # Only a server that stops cancels a request: what is served is still a true answer.
            pass
        return self.state

    async def _wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            pass

    async def _load(self, publication: PolicyPublication) -> None:
        directory = _below(self._root, publication.path)
        digest = await asyncio.to_thread(_sha256, directory / WEIGHTS_FILE)
        if digest != publication.sha256:
            raise DataError(
                f"{WEIGHTS_FILE} in {publication.path} has sha256 {digest[:12]}..., not the one announced: "
                "write the directory under another name and rename it before publishing.",
                field="sha256",
            )
        await self._engine.load(directory, publication.version)
        async with self._changed:
            self._served = publication
            self._changed.notify_all()
        _log().info("policy loaded", run_id=publication.run_id, version=publication.version, path=publication.path)

    def _serves(self, publication: PolicyPublication) -> bool:
        def key(one: PolicyPublication) -> tuple[str, int, str]:
            return one.run_id, one.version, one.sha256

        return self._served is not None and key(self._served) == key(publication)

    def _record(self, publication: PolicyPublication) -> None:
        text = Pointer(model=self._model, publication=publication).model_dump_json(indent=2)
        draft = self._root / f".{POINTER_FILE}.tmp"
        try:
            with draft.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._root / POINTER_FILE)
            _sync_directory(self._root)
        except OSError as error:
            raise EngineFailure(
                f"Version {publication.version} is served, but {self._root / POINTER_FILE} could not be written "
                f"({error.strerror}): publish it again once there is room."
            ) from error

    def _recorded(self) -> Pointer | None:
        file = self._root / POINTER_FILE
        try:
            pointer = Pointer.model_validate(json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            _log().warning(
                "the policy pointer cannot be read, serving the initial model", path=str(file), reason=str(error)
            )
            return None
        if pointer.model != self._model:
            _log().info("the policy pointer is of another model, serving the initial one", model=pointer.model)
            return None
        return pointer


def _below(root: Path, path: str) -> Path:
    """The directory `path` names, absolute or relative to `root`; DataError unless it is really below `root`."""
    try:
        directory = (root / path).resolve(strict=True)
        weights = (directory / WEIGHTS_FILE).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"There is no {WEIGHTS_FILE} in {path}: publish a directory that this service can see, absolute or "
            "relative to inference.policy_root.",
            field="path",
        ) from error
    if not (directory.is_relative_to(root) and weights.is_relative_to(root) and weights.is_file()):
        raise DataError(f"{path} is not below inference.policy_root: publish from below it.", field="path")
    return directory


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file.name} cannot be read: {error.strerror}.", field="path") from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _log() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("inference")
    return logger
