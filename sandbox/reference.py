"""What a task must say for its answers to be judged: checked whole before anything runs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sandbox.verdicts import ComparatorName, RewardRule
from shared.errors import DataError

KINDS = ("code.functional", "code.stdin", "code.assert")
MAX_TIME_LIMIT_S = 120.0
MAX_MEMORY_LIMIT_MB = 16_384
MAX_TESTS = 10_000
MAX_FAILURES = 10

FileName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\.py$")]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CodeTest(_Strict):
    """One test. A `public` test is shown in feedback when it fails: its input, the output, the expected output, the
    error. Of a test that is not, the feedback says that it failed and by which verdict, and nothing else."""

    input: str
    output: str
    public: bool = True


class CodeTask(_Strict):
    """`reference` of the kinds judged here. Limits are for one test; None is the service's default.

    `comparator` names the rules of `compare.py`; the assertions of `code.assert` compare for themselves. `public` is
    for all assertions of `code.assert` what it is for a test. `max_failures` is how many tests may fail before the rest
    are skipped: the first decides the reward, the others are for the feedback. `reward` is `all` (1.0 for a program
    that passes every test, else 0.0) or `fraction`: the share of tests that it passes. Then all tests are run, so that
    their order does not matter, and their time limits together must fit into the deadline.
    """

    kind: Literal["code.functional", "code.stdin", "code.assert"]
    tests: tuple[CodeTest, ...] = Field(default=(), max_length=MAX_TESTS)
    fn_name: FunctionName | None = None
    test_code: str | None = Field(default=None, min_length=1)
    public: bool = True
    entry_point: FunctionName | None = None
    files: dict[FileName, str] = Field(default_factory=dict, max_length=64)
    time_limit_s: float | None = Field(default=None, gt=0, le=MAX_TIME_LIMIT_S)
    memory_limit_mb: int | None = Field(default=None, ge=16, le=MAX_MEMORY_LIMIT_MB)
    comparator: ComparatorName = "lcb_exact"
    reward: RewardRule = "all"
    max_failures: int | None = Field(default=None, ge=1, le=MAX_FAILURES)

    @field_validator("tests", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "code.assert":
            if self.test_code is None or self.entry_point is None:
                raise ValueError("code.assert needs reference.test_code and reference.entry_point")
            if "comparator" in self.model_fields_set:
                raise ValueError("code.assert compares by its own assertions: leave reference.comparator out")
            return self
        if "public" in self.model_fields_set:
            raise ValueError("reference.public is for code.assert: say it of each test")
        if not self.tests:
            raise ValueError("reference.tests is empty: give at least one {input, output}")
        if self.kind == "code.functional":
            if self.fn_name is None:
                raise ValueError("code.functional needs reference.fn_name, the function to call")
            for index, test in enumerate(self.tests):
                _check_json(test, index)
        return self


def parse_task(kind: str, reference: dict[str, Any]) -> CodeTask:
    """The task of a reference. Raises DataError naming the field that is wrong."""
    if kind not in KINDS:
        raise DataError(
            f"This source judges code.functional, code.stdin and code.assert; got '{kind[:64]}'.", field="kind"
        )
    if "kind" in reference:
        raise DataError("reference.kind is not a field: the kind stands beside the reference.", field="reference.kind")
    try:
        return CodeTask.model_validate({**reference, "kind": kind})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(["reference", *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"Field '{field}' is wrong: {message}.", field=field) from error


def arguments(test: CodeTest) -> list[Any]:
    """The arguments of a functional test: one JSON value a line of its input, empty lines aside."""
    return [json.loads(line) for line in test.input.split("\n") if line.strip()]


def _check_json(test: CodeTest, index: int) -> None:
    try:
        arguments(test)
    except (ValueError, RecursionError):
        raise ValueError(f"reference.tests.{index}.input must be one JSON value a line") from None
    try:
        json.loads(test.output)
    except (ValueError, RecursionError):
        raise ValueError(f"reference.tests.{index}.output must be JSON") from None
