"""`--dry-run`: the settings that differ from the defaults, the steps, the memory of each GPU, the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cli.dry_run.memory import (
    FLOAT32,
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

SCIKNOWEVAL = "hicai-zju/SciKnowEval"
LEVEL_3 = {"biology": 500, "chemistry": 2100, "material": 935, "physics": 800}
"""Its multiple choice of level 3, by domain."""
PUBLISHED = {"livecodebench/code_generation_lite": 131, "BytedTsinghua-SIA/DAPO-Math-17k": 17_398}
"""Questions of data sets that recipes name, as published: of the paper's dates, and without repetitions."""


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
    yield from _section("Inference", _engine_lines(settings, shape))
    yield from _section("What is enough", _verdict_lines(settings, shape, plan, sum(learner.values())))
    yield from _section("Disk", _disk_lines(settings, shape, plan))
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
        yield f"about {size:,} training tasks, {epochs:.1f} epochs"
    yield f"{counted.rollouts:,} rollouts, {counted.rollouts * rollout.max_tokens:,} response tokens at most"
    yield f"{counted.m_updates:,} optimizer steps of the student, {counted.e_updates:,} of E-steps"
    yield f"{counted.evaluations} evaluations: {counted.student_samples:,} rollouts of the student, and of the teacher"


def _training_tasks(settings: Settings) -> int | None:
    """How many tasks an epoch has; None where that is not known without loading the data."""
    tasks = settings.tasks
    name, _, address = tasks.source.partition(":")
    if address == SCIKNOWEVAL:
        total = sum(LEVEL_3[domain] for domain in tasks.sciknoweval.domains)
    elif address in PUBLISHED:
        total = PUBLISHED[address]
    elif Path(tasks.source).is_file():
        with Path(tasks.source).open("rb") as lines:
            total = sum(bool(line.strip()) for line in lines)
    else:
        return None
    in_both = name == "livecodebench" and tasks.livecodebench.protocol == "tests"
    kept = total if tasks.held_out or in_both else total - max(1, round(total * tasks.held_out_share))
    return min(kept, tasks.limit or kept)


def _model_lines(settings: Settings, shape: ModelShape, source: str) -> Iterator[str]:
    yield f"{settings.model.path}: {shape.parameters:,} parameters, from {source}"
    yield (
        f"{shape.layers} layers of width {shape.hidden:,}, {shape.heads} heads, {shape.kv_heads} of them with keys, "
        f"vocabulary {shape.vocabulary:,}"
    )
    if shape.counted is not None:
        yield f"activations of the family {shape.family} are estimated as those of a gated MLP: take them as rough"


def _memory_lines(held: Mapping[str, float]) -> Iterator[str]:
    yield from (f"{size / GIB:8.2f} GiB  {name}" for name, size in held.items() if size)
    yield f"{sum(held.values()) / GIB:8.2f} GiB  together"


def _engine_lines(settings: Settings, shape: ModelShape) -> Iterator[str]:
    plan = engine_plan(settings, shape)
    held = engine_memory(shape, plan)
    yield f"{settings.inference.engine}, weights divided over {_count(plan.gpus)}"
    yield from _memory_lines(held)
    for size in GPUS:
        room = size * 10**9 * (plan.share or 1.0) - held["weights"] - (0 if plan.share else RESERVE)
        rows = int(room // held["keys and values, one row"])
        if rows > 0:
            yield f"of {size} GB: {min(rows, plan.rows)} of {plan.rows} rows of {plan.context:,} tokens at a time"
    yield f"each token of a row takes {key_value_bytes(shape, plan) / 1024:.1f} KiB; shorter rows leave room for more"


def _verdict_lines(settings: Settings, shape: ModelShape, plan: LearnerPlan, learner: float) -> Iterator[str]:
    of_engine = engine_plan(settings, shape)
    engine = sum(engine_memory(shape, of_engine).values())
    together = smallest_gpu(learner, engine, of_engine.share)
    yield f"the learner alone: {_gpu(smallest_gpu(learner))}"
    yield f"the engine alone: {_gpu(smallest_gpu(0.0, engine, of_engine.share))}"
    yield f"both on the same GPUs: {_gpu(together)}"
    yield f"{RESERVE / GIB:.0f} GiB are kept free beside the learner: for CUDA, NCCL and the allocator's gaps"
    if together is None:
        yield "what lowers the learner's memory:"
        for change, freed in savings(shape, plan).items():
            yield f"  {freed / GIB:6.1f} GiB  {change}"


def _gpu(size: int | None) -> str:
    return f"no GPU of {GPUS[-1]} GB is enough" if size is None else f"GPUs of {size} GB"


def _disk_lines(settings: Settings, shape: ModelShape, plan: LearnerPlan) -> Iterator[str]:
    trained = FLOAT32 * (shape.parameters if plan.adapter is None else plan.adapter)
    checkpoint = trained * (1 + len(plan.copies) + 2 * plan.moment_sets)
    kept = settings.learner.keep_checkpoints + 1
    lora = settings.model.lora
    adapter = plan.adapter if lora is not None and lora.publish == "adapter" else None
    published = plan.compute_bytes * shape.parameters if adapter is None else FLOAT32 * adapter
    yield f"{checkpoint / GIB:8.1f} GiB  a checkpoint; {kept} at most are kept, one more while it is written"
    yield f"{published / GIB:8.1f} GiB  a published policy, written at every step; 2 are kept"


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
