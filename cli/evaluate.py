"""`vpd eval`: from the command line to settings and a request, and from a result to a table; compares two results.

Making an evaluation is `evaluation_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.evaluation_display import print_comparison, print_result
from cli.evaluation_run import Request, evaluate
from cli.interrupts import Interrupts, Stopped
from shared.errors import SettingsError
from shared.load_settings import Resolved, load_settings, resolve_settings
from shared.settings import Settings
from trainer.evaluate import Teacher
from trainer.evaluation.figures import default_ks
from trainer.evaluation.result import Result, as_json, compare, read_result

FOLDER = "evaluations"
_GREEDY = ("evaluation.temperature=0", "evaluation.top_p=1", "evaluation.samples=1")


@dataclass(frozen=True)
class Arguments:
    """The command line. `find_run` gives the directory of a run by its name; `command` would go on where one stops."""

    names: Sequence[str]
    model: str | None
    samples: int | None
    k: str | None
    greedy: bool
    tasks: int | None
    teacher: Teacher
    out: Path | None
    as_json: bool
    base_port: int
    recipes: Sequence[Path]
    overrides: Sequence[str]
    find_run: Callable[[str], Path]
    command: str


def main(arguments: Arguments) -> int:
    """The exit code. Raises VPDError."""
    if len(arguments.names) == 2:
        return _compare(arguments)
    if len(arguments.names) > 2 or (arguments.names and arguments.model):
        raise SettingsError("vpd eval takes one run, or --model, or two evaluations to compare.")
    run = arguments.find_run(arguments.names[0]) if arguments.names else None
    resolved = _resolve(arguments, run)
    request = Request(
        parent=(run or Path(resolved.settings.run.dir)) / FOLDER,
        own_services=run is not None or arguments.model is not None,
        base_port=arguments.base_port,
        ks=_ks(arguments.k, resolved.settings.evaluation.samples),
        teacher=arguments.teacher,
        out=arguments.out,
    )
    with Interrupts() as interrupts:
        try:
            result = evaluate(resolved, request, interrupts)
        except Stopped as stopped:
            print(f"Stopped. To go on: {arguments.command}")
            return stopped.exit_code
    if arguments.as_json:
        print(as_json(result), end="")
    else:
        print_result(result)
    return 1 if result.nothing_judged else 0


def _resolve(arguments: Arguments, run: Path | None) -> Resolved:
    """The settings: those of the run below the recipes, what the options say above all."""
    if arguments.greedy and (arguments.samples or 1) > 1:
        raise SettingsError("--greedy asks for one rollout of each task, so --samples must be left out.")
    overrides = [*arguments.overrides, *(_GREEDY if arguments.greedy else ())]
    for key, value in (("evaluation.samples", arguments.samples), ("evaluation.final_tasks", arguments.tasks)):
        overrides += [] if value is None else [f"{key}={value}"]
    if run is None:
        overrides += [] if arguments.model is None else [f"model.path={arguments.model}"]
        return resolve_settings(arguments.recipes, overrides)
    own = run / "settings.json"
    resolved = resolve_settings([own, *arguments.recipes], [*overrides, f"model.path={_model(run)}"])
    _require_its_own_split(run, load_settings([own], environ={}), resolved.settings)
    return resolved


def _require_its_own_split(run: Path, own: Settings, asked: Settings) -> None:
    """Raise SettingsError where tasks that the run was trained on could be held out now."""
    left_out = {"held_out": None}  # Held-out tasks that are named are checked against the training tasks.
    drawn = [own.tasks.model_copy(update=left_out), asked.tasks.model_copy(update=left_out)]
    if own.tasks.source == asked.tasks.source and (drawn[0] != drawn[1] or own.run.seed != asked.run.seed):
        raise SettingsError(
            f"tasks and run.seed must be those of the run {run} where it is measured on its own tasks: they drew which "
            "of them are held out. Leave them out, or name other tasks by tasks.source or tasks.held_out."
        )


def _model(run: Path) -> Path:
    model = run / "model"
    if not (model / "config.json").is_file():
        raise SettingsError(f"The run {run} has no model yet: let it come to its end, or name a model with --model.")
    return model


def _ks(text: str | None, samples: int) -> list[int]:
    if text is None:
        return default_ks(samples)
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise SettingsError(f"--k takes numbers like 1,4,16, not {text!r}.") from None
    for k in ks:
        if not 1 <= k <= samples:
            raise SettingsError(
                f"--k: pass@{k} cannot be estimated from {samples} rollouts of a task; set --samples, or ask for a k "
                f"from 1 to {samples}."
            )
    return ks


def _compare(arguments: Arguments) -> int:
    first, second = (_result(name, arguments.find_run) for name in arguments.names)
    comparison = compare(first, second)
    if arguments.as_json:
        print(as_json(comparison), end="")
    else:
        print_comparison(arguments.names, comparison)
    return 0


def _result(name: str, find_run: Callable[[str], Path]) -> Result:
    """A result's file, or the last result of a run."""
    if Path(name).is_file():
        return read_result(Path(name))
    run = find_run(name)
    results = sorted((run / FOLDER).glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    if not results:
        raise SettingsError(f"The run {run} has not been evaluated: start `vpd eval {name}` first.")
    return read_result(results[-1])
