"""The file that names the publication served, so that a restarted service serves it again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from shared.errors import EngineFailure
from shared.protocol import PolicyPublication, Wire

POINTER_FILE = "current_policy.json"


class Pointer(Wire):
    """What `current_policy.json` holds: the publication served, and the model it is a policy of."""

    model: str = Field(min_length=1)
    publication: PolicyPublication


class PointerFile:
    """`current_policy.json` in `root`, of a service that serves policies of `model`."""

    def __init__(self, root: Path, model: str) -> None:
        self._file = root / POINTER_FILE
        self._model = model

    def read(self) -> PolicyPublication | None:
        """The publication named; None where there is none, or none that can be read or is of this model."""
        log = structlog.get_logger("inference")
        try:
            pointer = Pointer.model_validate(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            reason = str(error)
            log.warning(
                "the policy pointer cannot be read, serving the initial model", path=str(self._file), reason=reason
            )
            return None
        if pointer.model != self._model:
            log.info("the policy pointer is of another model, serving the initial one", model=pointer.model)
            return None
        return pointer.publication

    def write(self, publication: PolicyPublication) -> None:
        """Name `publication`, durably. Raises EngineFailure."""
        text = Pointer(model=self._model, publication=publication).model_dump_json(indent=2)
        draft = self._file.with_name(f".{POINTER_FILE}.tmp")
        try:
            with draft.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._file)
            _sync_directory(self._file.parent)
        except OSError as error:
            raise EngineFailure(
                f"Version {publication.version} is served, but {self._file} could not be written "
                f"({error.strerror}): publish it again once there is room."
            ) from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
