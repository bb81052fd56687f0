"""The `vpd` commands that read one run's files: what they take and say. What they do is in the modules they import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.options import AsJson, Overrides, Recipes, Run, run_directory, settings_of
from shared.errors import SettingsError


def add_to(app: typer.Typer) -> None:
    """Register them."""
    app.command(epilog="Example: `vpd rollouts demo --worst --source code --limit 5`")(rollouts)
    app.command(epilog="Example: `vpd explain s000003-g000-r00 --run demo`")(explain)
    app.command(epilog="Example: `vpd report demo --out demo.html`")(report)
    app.command(epilog="Example: `vpd audit demo`")(audit)
    app.command(epilog="Example: `vpd replay demo --step 12`")(replay)
    app.command(epilog="Example: `vpd track demo --set tracking.tensorboard=true`")(track)


def rollouts(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's directory or name; default: the newest run.")
    ] = None,
    worst: Annotated[bool, typer.Option("--worst", help="The lowest rewards first.")] = False,
    best: Annotated[bool, typer.Option("--best", help="The highest rewards first.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Only those that this source said something about.")
    ] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Only those of this training step.")] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="Only of this task; a part will do.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only with this text asked, answered or said.")
    ] = None,
    truncated: Annotated[bool, typer.Option("--truncated", help="Only answers cut at their longest length.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rollouts at most.")] = 10,
    json: AsJson = False,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """List rollouts of a run: reward, how much the teacher raised them, what was said about them.

    They are those of the last hundred steps, the newest first. The first three are shown with what was asked, answered
    and said; `vpd explain` shows one whole. The run may go on meanwhile.

    Exit codes: 0 done, also where none matches; 2 there is no such run, step or source.
    """
    if worst and best:
        raise SettingsError("--worst and --best: give one of them.")
    from cli.rollouts import Wanted, main

    sort: Literal["worst", "best", "newest"] = "worst" if worst else "best" if best else "newest"
    wanted = Wanted(sort, source, step, task, search, truncated, limit)
    below = Path(settings_of(recipe, set_).run.dir)
    path = run_directory(run, recipe, set_) if run is not None else _known(_newest(below), below)
    raise typer.Exit(main(path, wanted, as_json=json))


def explain(
    trajectory: Annotated[str, typer.Argument(help="A rollout's id, or a part of it that no other id has.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="RUN", help="A run's directory or name; default: the rollout's run, or the newest."
        ),
    ] = None,
    json: AsJson = False,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Tell the whole story of a rollout: what was asked, answered and said, and what training made of it.

    Which steps trained on it, what stood in the teacher's prompt at each, which tokens the teacher raised and lowered,
    and what became of people's critiques of it. `vpd rollouts` lists the ids.

    Exit codes: 0 done, 2 there is no such run or rollout.
    """
    from cli.explain import main, run_of

    below = Path(settings_of(recipe, set_).run.dir)
    path = run_directory(run, recipe, set_) if run is not None else _known(run_of(below, trajectory), below)
    raise typer.Exit(main(path, trajectory, as_json=json))


def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html in the run's directory.")
    ] = None,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Write a run, which may go on meanwhile, as one HTML file: curves, sources, examples, settings.

    Exit codes: 0 written, 1 it cannot be written, 2 there is no such run.
    """
    from cli.report import write_report

    print(write_report(run_directory(run, recipe, set_), out))


def audit(run: Run, json: AsJson = False, recipe: Recipes = None, set_: Overrides = None) -> None:
    """Prove from a run's files that no group was lost and none was counted twice, whatever was killed meanwhile.

    It reads the run's ledger, whose lines are chained by digests, and checks the stored batches, the checkpoints and
    the metrics against it; then it says how old the rollouts were that were trained on, what was done again after a
    stop, and which groups were dropped and why. No service and no model is needed, and the run may go on meanwhile.

    Exit codes: 0 clean, 1 a problem was found, 2 there is no such run.
    """
    from trainer.audit import main as check_ledger

    raise typer.Exit(check_ledger(run_directory(run, recipe, set_), as_json=json))


def replay(
    run: Run,
    step: Annotated[int, typer.Option("--step", min=0, help="The training step, counted from 0.")],
    json: AsJson = False,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Do a training step again from its stored batch, every service off, and compare every figure of it.

    It starts from the newest kept checkpoint before the step, or from the initial model, and does the steps in between
    as well. On the machine of the run the losses and the weights come out the same to the last bit: what is recorded
    is what these rollouts and this feedback give.

    Exit codes: 0 identical, 1 something differs, 2 there is no such run or step.
    """
    from trainer.replay import main as do_again

    raise typer.Exit(do_again(run_directory(run, recipe, set_), step=step, as_json=json))


def track(run: Run, recipe: Recipes = None, set_: Overrides = None) -> None:
    """Send a run's figures to the trackers of its settings: those that they lack.

    A run does so by itself while it goes on. This is for what could not be delivered then, and for a tracker that was
    not set.

    Exit codes: 0 all is there, 1 something could not be delivered, 2 there is no such run or no tracker is set.
    """
    from trainer.trackers.process import deliver_now

    lacking = deliver_now(run_directory(run, recipe, set_), recipe or (), set_ or ())
    print("\n".join(lacking) or "All is delivered.")
    raise typer.Exit(1 if lacking else 0)


def _newest(runs: Path) -> Path | None:
    """The run that was written to last."""
    from services.dashboard.runs import RunsFolder

    return next((runs / name for name in RunsFolder(runs).names()), None)


def _known(run: Path | None, below: Path) -> Path:
    if run is None:
        where = "--set run.dir=DIRECTORY looks elsewhere"
        raise SettingsError(f"There is no run in {below} yet: `vpd up` starts one, {where}.")
    return run
