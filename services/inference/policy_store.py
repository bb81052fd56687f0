"""Which policy version is served: publishing one, waiting for the next, remembering it across restarts.

A version is published in this order: its weights are checked, the engine loads them, the canary shows that it serves
them, the pointer on disk names them. Where the canary shows something else nothing is sampled until a version passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import structlog

from services.inference.canary import CanaryMismatch, canary_difference, check_canary, tolerance
from services.inference.checkpoint import (
    ADAPTER_FILE,
    WEIGHTS_FILE,
    Reference,
    check_adapter,
    check_weights,
    tensors_of_transfer,
)
from services.inference.engine import Checkpoint, Engine, Weights
from services.inference.model_files import model_directory
from services.inference.pointer import PointerFile
from shared.errors import DataError, EngineFailure
from shared.protocol import PolicyPublication, PolicyState, TransferGroup, TransferInit
from shared.settings import Settings

# How often a long poll looks whether its client is still there: without, it would hold up the end of the server.
GONE_CHECK_S = 0.5


class PolicyStore:
    """The publication that is served (None: the model the engine was started with).

    `current_policy.json` in the policy root is written before a publication is answered, so that a restarted
    service serves it again. `blocked` is None, or why nothing may be sampled. `on_published` hears of the seconds that
    each publication took, and `on_canary` of each difference, in nats.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._root = Path(settings.inference.policy_root).expanduser().resolve()
        self._pointer = PointerFile(self._root, settings.model.path)
        self._engine = engine
        self._reference = Reference()
        self._served: PolicyPublication | None = None
        self._restored = False
        self._changed = asyncio.Condition()
        self._publishing = asyncio.Lock()
        self._tried = asyncio.Event()
        self._tried.set()
        self.blocked: str | None = None
        self.on_published: Callable[[float], None] = lambda _: None
        self.on_canary: Callable[[float], None] = lambda _: None

    @property
    def version(self) -> int:
        """The version served; 0 for the initial model."""
        return self._served.version if self._served else 0

    @property
    def state(self) -> PolicyState:
        """What is served now."""
        served, context = self._served, self._engine.info.max_context
        return PolicyState(
            run_id=served.run_id if served else None,
            version=self.version,
            sha256=served.sha256 if served else None,
            model=self._settings.model.path,
            max_context=context,
            blocked=self.blocked,
        )

    def load_reference(self) -> None:
        """Read what checkpoints are measured by. Raises SettingsError."""
        self._reference = Reference.of(model_directory(self._settings.model.path))

    async def publish(self, publication: PolicyPublication) -> PolicyState:
        """Serve a version from now on; what is served already is not loaded again.

        Raises DataError, and goes on serving the old one, when the weights are not what was announced or do not fit;
        CanaryMismatch and EngineFailure, and blocks, when the engine does not or may not serve them.
        """
        # A publication that is cut off half-way would leave weights that nobody has named.
        return await asyncio.shield(asyncio.create_task(self._publish(publication)))

    async def transfer_group(self) -> TransferGroup:
        """Who takes part in a transfer of weights. Raises DataError where the settings foresee none, EngineFailure."""
        return TransferGroup(backend=self._transfer_backend(None), world_size=await self._engine.transfer_world())

    async def join_transfer(self, init: TransferInit) -> TransferGroup:
        """Make the engine's workers join a transfer of weights. Raises DataError and EngineFailure."""
        self._transfer_backend(init.backend)
        async with self._publishing:
            await self._engine.join_transfer(init.init)
        return await self.transfer_group()

    def _transfer_backend(self, wanted: str | None) -> Literal["nccl", "ipc"]:
        backend = self._settings.inference.publish
        if backend == "files" or (wanted is not None and wanted != backend):
            raise DataError(
                f"This service was started with inference.publish={backend}: set the same for service and trainer.",
                field="backend",
            )
        return backend

    async def require_tried(self) -> None:
        """Return when no publication is on trial. Raises EngineFailure if one has failed.

        What was sampled between the load of a version and its canary may be of other weights than its spans say.
        """
        await self._tried.wait()
        if self.blocked is not None:
            raise EngineFailure(self.blocked)

    async def restore(self) -> None:
        """After the engine has started: serve again what was served, or at the first start what the pointer names.

        What cannot be served again blocks; at the first start a pointer that leads nowhere is logged and left alone.
        Raises EngineFailure.
        """
        async with self._publishing:
            if self._served is not None:
                await self._serve_again(self._served)
            elif not self._restored and (publication := await asyncio.to_thread(self._pointer.read)) is not None:
                await self._serve_recorded(publication)
            else:
                await self._become(None, blocked=None)
            self._restored = True

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

    # --------------------------------------------------------------------------------------------------- publishing

    async def _publish(self, publication: PolicyPublication) -> PolicyState:
        _check_form(publication)
        async with self._publishing:
            # A trainer that transfers its weights waits for somebody to take them, served or not.
            if publication.transfer is not None or not self._serves(publication):
                started = time.monotonic()
                await self._serve(publication, await self._checked(publication))
                self.on_published(time.monotonic() - started)
            # Also for a repeat: the first attempt may have failed just here.
            await asyncio.to_thread(self._pointer.write, publication)
            return self.state

    async def _checked(self, publication: PolicyPublication) -> Weights:
        """The weights of a publication, fit for the engine. Raises DataError."""
        if publication.canary is not None:
            check_canary(publication.canary, self._engine.info)
        if publication.transfer is not None:
            self._transfer_backend(publication.transfer.backend)
            self._reference.check(tensors_of_transfer(publication.transfer.update), "transfer.update")
            return publication.transfer
        assert publication.path is not None and publication.sha256 is not None
        weights_file = ADAPTER_FILE if publication.adapter else WEIGHTS_FILE
        directory = _below(self._root, publication.path, weights_file)
        if publication.adapter:
            await asyncio.to_thread(check_adapter, directory, publication.sha256, rank=self._lora_rank())
        else:
            await asyncio.to_thread(check_weights, directory, self._reference, publication.sha256)
        return Checkpoint(directory, adapter=publication.adapter)

    def _lora_rank(self) -> int:
        inference = self._settings.inference
        if inference.engine != "vllm" or inference.vllm.lora_rank is None:
            raise DataError(
                "This service takes no LoRA adapters: set inference.engine=vllm and inference.vllm.lora_rank to the "
                "largest rank.",
                field="adapter",
            )
        return inference.vllm.lora_rank

    async def _serve(self, publication: PolicyPublication, weights: Weights) -> None:
        """Load and try; blocks unless the engine has shown that it serves these weights, or refuses them at once."""
        name = f"Version {publication.version} of run {publication.run_id}"
        self._tried.clear()
        try:
            await self._load(name, publication, weights)
        finally:
            self._tried.set()
        _log().info("policy loaded", run_id=publication.run_id, version=publication.version, path=publication.path)

    async def _load(self, name: str, publication: PolicyPublication, weights: Weights) -> None:
        try:
            await self._engine.load(weights, publication.version)
        except EngineFailure as error:
            await self._become(self._served, blocked=f"{name} may be loaded by half ({error}) Publish it again.")
            raise
        try:
            await self._try_canary(name, publication, weights)
        except (EngineFailure, CanaryMismatch) as error:
            await self._become(self._served, blocked=str(error))
            raise
        await self._become(publication, blocked=None)

    async def _try_canary(self, name: str, publication: PolicyPublication, weights: Weights) -> None:
        if publication.canary is None:
            return
        allowed = tolerance(self._settings)
        difference = await self._difference(publication)
        if difference > allowed and isinstance(weights, Checkpoint):
            _log().warning("the canary does not match, loading once more", version=publication.version, nats=difference)
            try:
                await self._engine.load(weights, publication.version)
            except DataError as error:
                raise EngineFailure(str(error)) from error
            difference = await self._difference(publication)
        if difference > allowed:
            raise CanaryMismatch(
                f"{name} is blocked: on its canary the engine's log-probs differ from the trainer's by "
                f"{difference:.3g} nats, more than the {allowed:g} of inference.canary_nats. The engine does not serve "
                "what was published: nothing is sampled until a version is published that passes."
            )

    async def _difference(self, publication: PolicyPublication) -> float:
        assert publication.canary is not None
        difference = await canary_difference(self._engine, publication.canary, publication.version)
        self.on_canary(difference)
        return difference

    async def _serve_again(self, publication: PolicyPublication) -> None:
        name = f"Version {publication.version} of run {publication.run_id}"
        try:
            if publication.transfer is not None:
                raise DataError("its weights came by transfer and are kept nowhere.")
            await self._serve(publication, await self._checked(publication))
        except CanaryMismatch as error:
            _log().error("the policy served before is blocked", reason=str(error))
        except DataError as error:
            sentence = f"{name} was served and is lost with the engine's restart: {error} Publish it again."
            await self._become(publication, blocked=sentence)
            _log().error("the policy served before cannot be loaded again", reason=sentence)

    async def _serve_recorded(self, publication: PolicyPublication) -> None:
        try:
            if publication.transfer is not None:
                raise DataError("Its weights came by transfer and are kept nowhere.")
            await self._serve(publication, await self._checked(publication))
        except CanaryMismatch as error:
            await self._become(publication, blocked=str(error))
            _log().error("the published policy is blocked", reason=str(error))
        except DataError as error:
            _log().warning("the published policy is gone, serving the initial model", reason=str(error))

    async def _become(self, served: PolicyPublication | None, *, blocked: str | None) -> None:
        async with self._changed:
            self._served, self.blocked = served, blocked
            self._changed.notify_all()

    def _serves(self, publication: PolicyPublication) -> bool:
        def key(one: PolicyPublication) -> tuple[str, int, str | None, bool]:
            return one.run_id, one.version, one.sha256, one.adapter

        return self.blocked is None and self._served is not None and key(self._served) == key(publication)


def _check_form(publication: PolicyPublication) -> None:
    if publication.transfer is None and publication.path is not None and publication.sha256 is not None:
        return
    if publication.transfer is not None and publication.path is None and publication.sha256 is None:
        if publication.adapter:
            raise DataError("adapter goes with path and sha256: adapters are not transferred.", field="adapter")
        return
    field = "transfer" if publication.transfer is not None else "path" if publication.path is None else "sha256"
    raise DataError("Give either path and sha256, or transfer: one of them, and not both.", field=field)


def _below(root: Path, path: str, weights_file: str) -> Path:
    """The directory `path` names, absolute or relative to `root`; DataError unless it is really below `root`."""
    try:
        directory = (root / path).resolve(strict=True)
        weights = (directory / weights_file).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"There is no {weights_file} in {path}: publish a directory that this service can see, absolute or "
            "relative to inference.policy_root.",
            field="path",
        ) from error
    if not (directory.is_relative_to(root) and weights.is_relative_to(root) and weights.is_file()):
        raise DataError(f"{path} is not below inference.policy_root: publish from below it.", field="path")
    return directory


def _log() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("inference")
    return logger
