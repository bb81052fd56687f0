"""How much a run does: steps, generations, floating-point operations, and the GPU hours that these would take.

The hours are arithmetic on an assumed share of a GPU's peak (MFU); no GPU was at hand to measure one. A forward pass
has 2 operations a parameter and token, and 2 x layers x width of the queries x tokens more for causal attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cli.dry_run.shapes import ModelShape
from shared.algorithm_settings import PassSettings
from shared.settings import Settings

H100_FLOPS = 989e12
"""Dense bfloat16 peak of an H100 SXM, a second."""
TRAINING_MFU, SAMPLING_MFU = 0.35, 0.10
"""Assumed, not measured: usual figures of dense training, and of decoding a few hundred sequences together."""
USUAL_PROMPT, USUAL_RESPONSE = 400, 1000
"""Assumed mean lengths in tokens; SDPO reports 600 to 1,000 for responses on LiveCodeBench."""


@dataclass(frozen=True)
class Amounts:
    """Of a whole run."""

    rollouts: int
    """In training."""
    evaluations: int
    student_samples: int
    """Rollouts in evaluations; the teacher has as many at most."""
    m_updates: int
    """Optimizer steps of the student at most."""
    e_updates: int
    """Gradient steps of the E-step."""


def amounts(settings: Settings) -> Amounts:
    """Counted from the settings."""
    run, rollout, evaluation = settings.run, settings.rollout, settings.evaluation
    passes = _passes(settings)
    e_step = getattr(settings.algorithm, "e_step", None)
    between = len(range(evaluation.every, run.steps, evaluation.every))
    return Amounts(
        rollouts=run.steps * rollout.prompts_per_step * rollout.samples_per_prompt,
        evaluations=between + 2,
        student_samples=evaluation.samples * (between * evaluation.tasks + 2 * evaluation.final_tasks),
        m_updates=run.steps * passes.epochs * passes.minibatches,
        e_updates=0 if e_step is None else run.steps // e_step.every * e_step.gradient_steps,
    )


@dataclass(frozen=True)
class Hours:
    """GPU hours on H100s at the assumed lengths and MFU."""

    sampling: float
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.sampling + self.training + self.evaluation


def gpu_hours(settings: Settings, shape: ModelShape, *, checkpointing: bool) -> Hours:
    """What the run would take. Responses are of the usual length, or of `rollout.max_tokens` if that is less."""
    response = min(USUAL_RESPONSE, settings.rollout.max_tokens)
    prompt, informed = USUAL_PROMPT, USUAL_PROMPT + response  # a sibling's response, or a feedback of that size
    counted = amounts(settings)
    alone = forward_flops(shape, prompt + response)
    told = forward_flops(shape, informed + response)
    learning = settings.run.steps * step_flops(settings, alone, told, checkpointing=checkpointing)
    hour = 3600 * H100_FLOPS
    return Hours(
        sampling=counted.rollouts * alone / (hour * SAMPLING_MFU),
        training=learning / (hour * TRAINING_MFU),
        evaluation=counted.student_samples * (alone + told) / (hour * SAMPLING_MFU),
    )


def step_flops(settings: Settings, alone: float, told: float, *, checkpointing: bool) -> float:
    """Of one training step, the E-steps in their share; `alone` and `told` are the forward passes of a rollout."""
    algorithm, passes = settings.algorithm, _passes(settings)
    teacher, e_step = getattr(algorithm, "teacher", None), getattr(algorithm, "e_step", None)
    with_gradients = 4 if checkpointing else 3
    rows = settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt
    scored = 0 if teacher is None else 2 if teacher.weights == "trust_region" else 1
    m_step = passes.epochs * (with_gradients * alone + scored * told)
    if e_step is None:
        return rows * m_step
    # The prior, the log-ratios that delta is made of, and the gradient.
    gradient_step = alone + (1 + with_gradients) * told
    e_steps: float = e_step.buffer_steps * e_step.gradient_steps * gradient_step / e_step.every
    return rows * (m_step + e_steps)


def _passes(settings: Settings) -> PassSettings:
    algorithm: Any = settings.algorithm
    passes: PassSettings = getattr(algorithm, "m_step", algorithm)
    return passes


def forward_flops(shape: ModelShape, tokens: int) -> float:
    """Of one sequence of so many tokens."""
    in_use = shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)  # looking up is free
    return 2.0 * in_use * tokens + 2.0 * shape.layers * shape.queries * tokens**2
