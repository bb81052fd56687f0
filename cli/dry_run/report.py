"""`--dry-run`: the settings that differ from the defaults, the steps, the memory of each GPU, the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cli.dry_run.memory import (
    GIB,
    GPUS,
    RESERVE,
    LearnerPlan,
    engine_memory,
    engine_plan,
    key_value_bytes,
    learner_memory,
    learner_plan,
    savings,
    smallest_gpu,
)
from cli.dry_run.shapes import ModelShape, shape_of
from cli.dry_run.work import (
    SAMPLING_MFU,
    TRAINING_MFU,
    USUAL_PROMPT,
    USUAL_RESPONSE,
    amounts,
    gpu_hours,
)
from cli.show import changed_lines
from shared.load_settings import Resolved
from shared.settings import Settings

HELD_OUT_SHARE = 0.1


def dry_run_lines(resolved: Resolved) -> Iterator[str]:
    """The whole report. Raises SettingsError where the model's shape cannot be found."""
    settings = resolved.settings
    shape, source = shape_of(settings.model.path)
    plan = learner_plan(settings, shape)
    yield from _section("Settings that differ from the defaults", changed_lines(resolved))
    yield from _section("Steps", _step_lines(settings))
    yield from _section("Model", _model_lines(settings, shape, source))
    learner = learner_memory(shape, plan)
    yield from _section(f"Learner, on each of {_count(plan.ranks)}", _memory_lines(learner))
    yield from _section("Inference", _engine_lines(settings, shape, sum(learner.values())))
    yield from _section("It fits", _verdict_lines(settings, shape, plan, sum(learner.values())))
    yield from _section("Arithmetic", _work_lines(settings, shape, plan))


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield title
    yield from (f"  {line}" for line in lines)
    yield ""


def _step_lines(settings: Settings) -> Iterator[str]:
    run, rollout, counted = settings.run, settings.rollout, amounts(settings)
    rows = rollout.prompts_per_step * rollout.samples_per_prompt
    yield f"{run.steps} steps of {rollout.prompts_per_step} prompts x {rollout.samples_per_prompt} rollouts = {rows:,}"
    size = _training_tasks(settings)
    if size is not None:
        epochs = run.steps * rollout.prompts_per_step / size
        yield f"{size:,} training tasks, {epochs:.1f} epochs"
    yield f"{counted.rollouts:,} rollouts, {counted.rollouts * rollout.max_tokens:,} response tokens at most"
    yield f"{counted.m_updates:,} optimizer steps of the student, {counted.e_updates:,} of E-steps"
    yield f"{counted.evaluations} evaluations: {counted.student_samples:,} rollouts of the student, and of the teacher"


def _training_tasks(settings: Settings) -> int | None:
    """How many tasks an epoch has; None where that is not known without loading the data."""
    file = Path(settings.tasks.source)
    if not file.is_file():
        return None
    with file.open("rb") as lines:
        total = sum(bool(line.strip()) for line in lines)
    return total if settings.tasks.held_out else total - max(1, round(total * HELD_OUT_SHARE))


def _model_lines(settings: Settings, shape: ModelShape, source: str) -> Iterator[str]:
    yield f"{settings.model.path}: {shape.parameters:,} parameters, from {source}"
    yield (
        f"{shape.layers} layers of width {shape.hidden:,}, {shape.heads} heads, {shape.kv_heads} of them with keys, "
        f"vocabulary {shape.vocabulary:,}"
    )
    if shape.counted is not None:
        yield f"activations of the family {shape.family} are estimated as those of a gated MLP: take them as rough"


def _memory_lines(held: Mapping[str, float]) -> Iterator[str]:
    for name, size in held.items():
        yield f"{size / GIB:8.2f} GiB  {name}"
    yield f"{sum(held.values()) / GIB:8.2f} GiB  together"


def _engine_lines(settings: Settings, shape: ModelShape, beside: float) -> Iterator[str]:
    plan = engine_plan(settings, shape)
    held = engine_memory(shape, plan)
    yield f"{settings.inference.engine}, weights divided over {_count(plan.gpus)}"
    yield from _memory_lines(held)
    row = held["keys and values, one row"]
    for size in GPUS:
        free = size * 10**9 - RESERVE - held["weights"]
        rows = [max(0, int(room // row)) for room in (free, free - beside)]
        if rows[0]:
            yield (
                f"{size} GB: {min(rows[0], plan.rows)} of {plan.rows} rows of {plan.context:,} tokens at a time alone, "
                f"{min(rows[1], plan.rows)} beside the learner"
            )
    yield f"each token of a row takes {key_value_bytes(shape, plan) / 1024:.1f} KiB; shorter rows leave room for more"


def _verdict_lines(settings: Settings, shape: ModelShape, plan: LearnerPlan, learner: float) -> Iterator[str]:
    engine = sum(engine_memory(shape, engine_plan(settings, shape)).values())
    for what, needed in (
        ("the learner", learner),
        ("the engine", engine),
        ("both on the same GPUs", learner + engine),
    ):
        size = smallest_gpu(needed)
        fits = f"a GPU of {size} GB" if size else f"no GPU of {GPUS[-1]} GB"
        yield f"{what}: {needed / GIB:.1f} GiB and {RESERVE / GIB:.0f} GiB of reserve, {fits}"
    if smallest_gpu(learner + engine) is None:
        yield "to lower the learner's:"
        for change, freed in savings(shape, plan).items():
            yield f"  {freed / GIB:6.1f} GiB  {change}"


def _work_lines(settings: Settings, shape: ModelShape, plan: LearnerPlan) -> Iterator[str]:
    hours = gpu_hours(settings, shape, checkpointing=plan.gradient_checkpointing)
    yield (
        f"about {hours.total:,.1f} H100 hours: {hours.sampling:,.1f} sampling, {hours.training:,.1f} training, "
        f"{hours.evaluation:,.1f} evaluation"
    )
    yield (
        f"not measured on a GPU; from operations at an assumed {TRAINING_MFU:.0%} (training) and {SAMPLING_MFU:.0%} "
        f"(sampling) of its peak,"
    )
    yield f"prompts of {USUAL_PROMPT:,} and responses of {USUAL_RESPONSE:,} tokens on average (docs/recipes.md)"


def _count(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"
