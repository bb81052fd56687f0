"""The `vpd` command: reads the command line, hands over, and turns every error into one sentence.

What the commands do is in the modules next to this one, in `services/` and in `trainer/`; they are imported when they
are needed, so that `vpd --help` is quick.
"""

from __future__ import annotations

import errno
import importlib
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import typer

from cli import run_commands
from cli.options import Overrides, Recipes, resolve, run_directory, settings_of
from shared.errors import InfrastructureError, SettingsError, VPDError

SERVICES = ("inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Post-train a language model from language feedback.\n\n"
    "`vpd up` starts everything and trains the built-in example; it takes minutes and needs no GPU.",
    epilog="Settings come from `--set a.b=c`, then `VPD_A__B`, then `--recipe FILE`, then defaults; "
    "`vpd config show` prints them all with where each came from.",
)
config = typer.Typer(no_args_is_help=True, help="Show, check and document the settings.")
app.add_typer(config, name="config")
data = typer.Typer(no_args_is_help=True, help="Look at the tasks a run would train on.")
app.add_typer(data, name="data")

Engine = Annotated[
    Literal["transformers", "vllm"] | None,
    typer.Option("--engine", help="What runs the model, as --set inference.engine=...; vllm is installed if missing."),
]
BasePort = Annotated[
    int, typer.Option("--base-port", min=1, max=65_000, help="Port of the first service; the others follow it.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print settings, steps and the memory each GPU needs; start nothing.")
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, above its sentence.")] = False,
) -> None:
    _Errors.debug = debug


@app.command(epilog="Example: `vpd up --set run.name=first --set run.steps=40`")
def up(
    recipe: Recipes = None,
    set_: Overrides = None,
    engine: Engine = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services up when the run is done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an old run of this name aside and start anew.")] = False,
    base_port: BasePort = 8201,
    dry_run: DryRun = False,
) -> None:
    """Start Redis, the services and the trainer; show the run; stop everything at its end.

    Ctrl-C or SIGTERM ends the run after its running step, with a checkpoint and exit code 0; a second one ends it at
    once, with 128 + its number. Either way the same command goes on with the run, and loses nothing.
    """
    resolved = resolve(recipe, [*(set_ or ()), *([f"inference.engine={engine}"] if engine else ())])
    if dry_run:
        return _dry_run(resolved)
    from cli.up import up as start

    raise typer.Exit(start(resolved, keep=keep, fresh=fresh, base_port=base_port, resume=_resume()))


@app.command()
def down(
    name: Annotated[str | None, typer.Argument(help="Name of the run; not needed when only one stack is up.")] = None,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Stop a stack: one that was kept up, or one whose run goes on."""
    from cli.down import down as stop

    print(stop(Path(settings_of(recipe, set_).run.dir), name))


@app.command()
def status(recipe: Recipes = None, set_: Overrides = None) -> None:
    """Show which stacks are up, their processes, whether their services are ready, and how far each run is."""
    from cli.status import status_lines

    print("\n".join(status_lines(Path(settings_of(recipe, set_).run.dir))))


@app.command(epilog="Example: `vpd serve code-feedback --port 8202`")
def serve(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 takes any free one.")],
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Run one service alone, until Ctrl-C. `VPD_API_KEY` is the key it asks for; without one it is open."""
    if name not in SERVICES:
        raise SettingsError(f"There is no service {name!r}: it is one of {', '.join(SERVICES)}.")
    settings = settings_of(recipe, set_)
    from shared.service import serve as run

    service: Any = importlib.import_module(f"services.{name.replace('-', '_')}.app")
    run(service.create_app(settings), settings, port)


@app.command(epilog="Example: `vpd train --recipe recipes/grpo.toml --set run.name=grpo`")
def train(
    recipe: Recipes = None,
    set_: Overrides = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PART", help="`collector` or `learner`, in this process.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train against services that are up already, at the URLs of the settings."""
    resolved = resolve(recipe, set_)
    if dry_run:
        return _dry_run(resolved)
    settings = resolved.settings
    if only is None:
        from cli.up import train as run

        raise typer.Exit(run(settings, resume=_resume()))
    if only not in ("collector", "learner"):
        raise SettingsError(f"--only takes collector or learner, not {only!r}.")
    raise typer.Exit(_trainer(only, settings))


@app.command("eval", epilog="Example: `vpd eval demo --samples 16 --set evaluation.temperature=0.6`")
def evaluate(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN | A B]", help="A finished run; or two, or their result files.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model, as --set model.path=...")] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Rollouts of each task.")] = None,
    k: Annotated[str | None, typer.Option("--k", metavar="1,4,16", help="The k of pass@k.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="One rollout of each task, at temperature 0.")] = False,
    tasks: Annotated[int | None, typer.Option("--tasks", min=1, help="Held-out tasks at most.")] = None,
    teacher: Annotated[
        Literal["feedback", "m_step", "none"],
        typer.Option(
            "--teacher", help="What it is told: the attempt's feedback, or all that the M-step would show it."
        ),
    ] = "feedback",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON result there too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    base_port: BasePort = 8201,
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Measure student and teacher on held-out tasks: avg@k, pass@k, and 95 % intervals.

    Without RUN and --model, the policy is the one that services serve which are up already. For a RUN or a --model the
    services that are needed are started, and stopped at the end. A RUN is measured with its own settings. Stopped or
    killed, the same command goes on where it was. Two runs, or the result.json files of two evaluations, are compared.

    Exit codes: 0 done, 1 nothing could be judged or a service failed, 2 wrong settings, 128+N stopped by signal N.
    """
    from cli.evaluate import Arguments
    from cli.evaluate import main as measure

    arguments = Arguments(
        names=what or (),
        model=model,
        samples=samples,
        k=k,
        greedy=greedy,
        tasks=tasks,
        teacher=teacher,
        out=out,
        as_json=json,
        base_port=base_port,
        recipes=recipe or (),
        overrides=set_ or (),
        find_run=lambda name: run_directory(name, recipe, set_),
        command=_resume(),
    )
    raise typer.Exit(measure(arguments))


run_commands.add_to(app)


@app.command(epilog="Example: `vpd experiment smoke --jobs 2`; then `vpd experiment report smoke`")
def experiment(
    what: Annotated[
        list[str], typer.Argument(metavar="NAME | list | report NAME", help="Or the path of a .toml file.")
    ],
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time; default: the cores.")] = None,
    dir_: Annotated[Path, typer.Option("--dir", help="Where experiments leave their runs.")] = Path("runs/experiments"),
    set_: Overrides = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ARM", help="May be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs.")] = False,
) -> None:
    """Run a table of runs in parallel and write one page about them; called again, it goes on where it was."""
    from cli import experiment as table

    if what == ["list"]:
        print("\n".join(table.list_lines(dir_)))
    elif len(what) == 2 and what[0] == "report":
        print(table.report(what[1], directory=dir_))
    elif len(what) != 1:
        raise SettingsError(f"vpd experiment takes NAME, list or report NAME, not {' '.join(what)!r}.")
    elif dry_run:
        print("\n".join(table.dry_run_lines(what[0], directory=dir_, overrides=set_ or (), only=only or ())))
    else:
        code = table.run(what[0], jobs=jobs, directory=dir_, overrides=set_ or (), only=only or (), command=_resume())
        raise typer.Exit(code)


@app.command(epilog="Example: `vpd recipes sciknoweval vpd`")
def recipes(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD...", help="Only those whose line has them.")
    ] = None,
) -> None:
    """List the recipes that ship with the project: what each is, the hardware it needs, the paper's figure."""
    from cli.recipes import recipe_lines

    print("\n".join(recipe_lines(words or ())))


@app.command(epilog="Example: `vpd install vllm`")
def install(
    what: Annotated[str, typer.Argument(help="`vllm`: vLLM's CPU build, in an environment of its own.")],
    recipe: Recipes = None,
    set_: Overrides = None,
) -> None:
    """Install what only some settings need, unless it is there; `vpd up` does so by itself."""
    if what != "vllm":
        raise SettingsError(f"vpd install takes vllm, not {what!r}.")
    from cli.interrupts import Stopped
    from cli.vllm_environment import install_alone

    try:
        print(install_alone(settings_of(recipe, set_)))
    except Stopped as stopped:
        raise typer.Exit(stopped.exit_code) from None


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    e2e: Annotated[bool, typer.Option("--e2e", help="Only the runs of the whole stack; two need Chromium.")] = False,
    compose: Annotated[bool, typer.Option("--compose", help="Only the tests that need a Docker engine.")] = False,
    slow: Annotated[bool, typer.Option("--slow", help="Only the tests that run thousands of programs.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Only the tests with vLLM; installs it if missing.")] = False,
    chaos: Annotated[bool, typer.Option("--chaos", help="Only the runs whose processes are killed.")] = False,
    browser: Annotated[bool, typer.Option("--browser", help="Only the tests of the pages; needs Chromium.")] = False,
) -> None:
    """Run the project's tests; further arguments go to pytest, like `vpd test tests/shared -k queue`."""
    from cli import development

    asked = {"e2e": e2e, "compose": compose, "slow": slow, "vllm": vllm, "chaos": chaos, "browser": browser}
    raise typer.Exit(development.test(context.args, asked))


@app.command()
def lint() -> None:
    """Run the linter, the formatter's check and the type checker."""
    from cli import development

    raise typer.Exit(development.lint())


@config.command()
def show(
    recipe: Recipes = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of TOML.")] = False,
) -> None:
    """Print every setting, and where those come from that are not at their default. It can be used as a recipe."""
    from cli.show import settings_as_json, settings_as_toml

    resolved = resolve(recipe, set_)
    print(settings_as_json(resolved) if json else settings_as_toml(resolved))


@config.command()
def check(recipe: Recipes = None, set_: Overrides = None, base_port: BasePort = 8201) -> None:
    """Check the settings, and that model, engine, tasks, trackers, sandbox, Redis, ports and disk are there."""
    from cli.checks import findings

    settings = settings_of(recipe, set_)
    print("ok      settings: they fit together")
    ok = True
    for finding in findings(settings, base_port):
        ok = ok and finding.ok
        print(f"{'ok' if finding.ok else 'PROBLEM':7} {finding.name}: {finding.detail}")
    raise typer.Exit(0 if ok else 1)


@config.command()
def docs(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Markdown files with the markers.", show_default="README.md docs/settings.md"),
    ] = None,
) -> None:
    """Write the table of settings into the documentation."""
    from cli.development import ROOT
    from cli.show import write_settings_table

    for file in files or [ROOT / "README.md", ROOT / "docs" / "settings.md"]:
        write_settings_table(file)
        print(f"{file} is up to date.")


@data.command("check", epilog="Example: `vpd data check math:math500.jsonl --set model.path=Qwen/Qwen3-8B`")
def check_data(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="As tasks.source; default: the settings' own.")
    ] = None,
    recipe: Recipes = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
    show: Annotated[int, typer.Option("--show", min=0, metavar="N", help="Print the first N tasks.")] = 0,
) -> None:
    """Read all tasks of the settings, and say how many there are, how long their prompts are, what was left out and
    why, and every row that is wrong, with its line. No service is needed.

    Where model.path is set, prompts are counted in its tokens, and held-out ones must fit into its context.

    Exit codes: 0 all is well, 1 a row is wrong or a held-out prompt does not fit, 2 there is nothing to read.
    """
    from cli.data import main as check_tasks

    resolved = resolve(recipe, [*(set_ or ()), *([f"tasks.source={source}"] if source else ())])
    with_model = "model.path" in resolved.origins
    raise typer.Exit(check_tasks(resolved.settings, with_model=with_model, as_json=json, show=show))


def main() -> None:
    """Entry point of `vpd`. Exit codes: 0 done, or a run that was asked to stop and did so after its step; 1 failed;
    2 wrong settings or arguments; 128+N stopped at once by signal N."""
    sys.excepthook = _Errors.report
    try:
        # Not app(): Typer would put its own excepthook in place of ours.
        typer.main.get_command(app)(prog_name="vpd")
    except VPDError as error:
        _Errors.report(type(error), error, error.__traceback__)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = InfrastructureError(f"The disk is full ({error.filename or 'writing'}): free some space and go on.")
        _Errors.report(type(full), full, error.__traceback__)
        sys.exit(1)


class _Errors:
    """How errors are shown: a sentence, with `--debug` a traceback above it."""

    debug = False

    @classmethod
    def report(cls, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if cls.debug:
            sys.__excepthook__(kind, error, trace)
        sentence = str(error)
        if not isinstance(error, VPDError):
            hint = "" if cls.debug else " `vpd --debug ...` shows where."
            sentence = f"Unexpected {kind.__name__}: {error}. This is a mistake in vpd.{hint}"
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)


def _dry_run(resolved: Any) -> None:
    from cli.dry_run.report import dry_run_lines

    print("\n".join(dry_run_lines(resolved)).rstrip())


def _trainer(module: str, settings: Any) -> int:
    from shared.logs import configure_logging

    configure_logging(module, settings.service.log_format)
    return int(importlib.import_module(f"trainer.{module}").main(settings))


def _resume() -> str:
    return shlex.join(["./vpd", *(argument for argument in sys.argv[1:] if argument != "--fresh")])


if __name__ == "__main__":
    main()
