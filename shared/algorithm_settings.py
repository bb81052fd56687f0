"""What each algorithm can be told. The defaults are the vetted values; combinations that mean nothing are refused here.

The names are the paper's (VPD, arXiv 2605.15113) and those of the papers it compares with: SDPO (2601.20802), GRPO
(2402.03300). What the settings do is in `trainer/algorithms/` and docs/algorithm.md.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Base of all settings: unknown keys, infinity and NaN are errors, defaults are checked."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class PassSettings(Strict):
    """How often the student's step goes over a batch."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the batch."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps in a pass; each takes an equal part of the rows, siblings side by side."""


class DistillSettings(PassSettings):
    """The M-step: distil the teacher into the student on its own rollouts (docs/algorithm.md)."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of the term; 0 leaves the distillation out."""
    outcomes: Literal["both", "failures"] = "both"
    """Which rows are distilled; the paper's are all. `failures` leaves successes as they are, which keeps the policy
    from becoming certain of all it does (docs/results.md)."""
    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """D(student, teacher): reverse is KL(student || teacher)."""
    jsd_alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of the teacher in the mixture; only for `jsd`."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Support: the student's top K plus a tail bucket; None is the whole vocabulary."""
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """token_mean divides the sum over tokens by all tokens of the step's rows; sequence_mean averages each row's
    mean over the rows."""
    masked_rows: Literal["left_out", "counted"] = "left_out"
    """Whether rows without a context count in the denominator (SDPO counts them); they are never in the loss."""
    importance_cap: Positive | None = 2.0
    """Cap of the token weights pi_theta / pi_sampler; None leaves the weights out."""

    @model_validator(mode="after")
    def _alpha_is_of_jsd(self) -> Self:
        if self.divergence != "jsd" and self.jsd_alpha != 0.5:
            raise ValueError(f"jsd_alpha is only for divergence 'jsd', not '{self.divergence}'")
        return self


class TeacherSettings(Strict):
    """Whose weights score the teacher's prompt."""

    weights: Literal["live", "ema", "trust_region", "frozen", "gated", "separate"] = "live"
    """live: the student's own; ema: their moving average; trust_region: logits between the initial model's and the
    student's; frozen: the initial model; gated: a copy of the student that is renewed when the student has become
    better (arXiv 2606.03532); separate: weights that the E-step alone trains."""
    rate: Share = 0.05
    """Of `ema` and `trust_region`."""
    gate_steps: Annotated[int, Field(ge=1)] = 5
    """`gated`: steps between renewals at least; the reward is averaged over as many."""
    gate_gain: Share = 0.02
    """`gated`: the mean reward must have risen by this much since the last renewal."""
    gate_length: Annotated[float, Field(ge=1)] = 1.5
    """`gated`: the 95th percentile of response lengths may have grown by this factor at most."""


class EStepSettings(Strict):
    """The E-step: refine the teacher on outcomes, unpaired (docs/algorithm.md)."""

    every: Annotated[int, Field(ge=1)] = 1
    """F: one E-step for every F M-steps (the paper: 5)."""
    gradient_steps: Annotated[int, Field(ge=1)] = 1
    """Gradient steps in one E-step."""
    beta: Positive = 0.1
    """Scale of the implicit reward."""
    prior: Literal["dynamic", "fixed"] = "dynamic"
    """Reference of the implicit reward: the current student, or the initial model."""
    outcomes: Literal["both", "successes", "failures"] = "both"
    """Which rows have a term; the paper's loss has both."""
    length_normalised: bool = False
    """Divide log-ratios by the response length."""
    class_weights: Literal["natural", "balanced"] = "natural"
    """natural weighs each row the same (n+/N and n-/N); balanced is the paper's sum of two class means."""
    trust_region_nats: Positive | None = 2.0
    """Skip successes whose log q - log pi already rose by more, failures that fell by more; None is the paper's."""
    delta_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Rate of the moving average of delta."""
    buffer_steps: Annotated[int, Field(ge=1)] = 1
    """Steps whose trajectories an E-step trains on (the paper: F)."""
    learning_rate_share: Positive = 0.3
    """Of the algorithm's learning rate."""
    optimizer: Literal["own", "shared"] = "own"
    """Whether the E-step keeps AdamW moments of its own."""
    gate_drop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Leave E-steps out while the teacher's accuracy on training prompts is this far below its best; None: no gate."""


class GRPOTerm(Strict):
    """Group-relative policy optimisation (docs/algorithm.md)."""

    normalise_std: bool = True
    """Divide advantages by the group's standard deviation."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio."""
    clip_high: Positive = 0.28
    """Upper clip of the ratio."""


class WeightedGRPOTerm(GRPOTerm):
    """A GRPO term beside the distillation."""

    weight: Positive = 1.0
    """Factor of the term."""


class _Distilling(Strict):
    """What every algorithm without an E-step refuses of a teacher."""

    teacher: TeacherSettings = TeacherSettings(weights="ema")

    @model_validator(mode="after")
    def _no_separate_teacher(self) -> Self:
        if self.teacher.weights == "separate":
            raise ValueError("teacher.weights 'separate' needs an E-step to train them; use vpd, or 'frozen'")
        return self


class VPDSettings(Strict):
    """Variational Policy Distillation."""

    name: Literal["vpd"] = "vpd"
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    teacher: TeacherSettings = TeacherSettings(weights="ema", rate=0.2)
    """Whose weights the M-step distils; the paper's is `live`, which loses the structure of answers on some seeds."""
    e_step: EStepSettings = EStepSettings()
    m_step: DistillSettings = DistillSettings()

    @model_validator(mode="after")
    def _own_moments_for_own_weights(self) -> Self:
        if self.teacher.weights == "separate" and self.e_step.optimizer == "shared":
            raise ValueError("e_step.optimizer must be 'own' where teacher.weights is 'separate': other weights")
        return self


class VPDGRPOSettings(VPDSettings):
    """Variational Policy Distillation whose M-step has a GRPO term as well."""

    name: Literal["vpd_grpo"] = "vpd_grpo"  # type: ignore[assignment]
    grpo: WeightedGRPOTerm = WeightedGRPOTerm()


class SDPOSettings(_Distilling):
    """Self-Distillation Policy Optimisation: the M-step alone."""

    name: Literal["sdpo"] = "sdpo"
    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    m_step: DistillSettings = DistillSettings()

    @model_validator(mode="after")
    def _distils(self) -> Self:
        if self.m_step.weight == 0:
            raise ValueError("m_step.weight must be above 0: sdpo has no other term")
        return self


class GRPOSettings(GRPOTerm, PassSettings):
    """Reward only, no text."""

    name: Literal["grpo"] = "grpo"
    learning_rate: Positive = 3e-3
    """Peak learning rate."""


class SDPOGRPOSettings(SDPOSettings):
    """Hybrid, joint loss: w_opd L_SDPO + w_rl L_GRPO."""

    name: Literal["sdpo_grpo"] = "sdpo_grpo"  # type: ignore[assignment]
    grpo: WeightedGRPOTerm = WeightedGRPOTerm()


class ReshapedGRPOSettings(GRPOTerm, PassSettings, _Distilling):
    """Hybrid, advantage reshaping: the teacher's log-ratio is added to the advantage of each token."""

    name: Literal["reshaped_grpo"] = "reshaped_grpo"
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    ratio_weight: Positive = 1.0
    """Factor of log q - log pi beside the advantage."""


class ReweightedGRPOSettings(GRPOTerm, PassSettings, _Distilling):
    """Hybrid, distillation-guided reweighting: the advantage keeps its sign, the teacher scales it token by token."""

    name: Literal["reweighted_grpo"] = "reweighted_grpo"
    learning_rate: Positive = 3e-3
    """Peak learning rate."""
    ratio_share: Share = 0.5
    """lambda: how much of an advantage is scaled."""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The scale q/pi (or pi/q for negative advantages) stays within 1 - clip and 1 + clip."""
    decay_steps: Annotated[int, Field(ge=1)] | None = 50
    """lambda falls to 0 over so many training steps; None keeps it."""


AlgorithmSettings = Annotated[
    VPDSettings
    | SDPOSettings
    | GRPOSettings
    | VPDGRPOSettings
    | SDPOGRPOSettings
    | ReshapedGRPOSettings
    | ReweightedGRPOSettings,
    Field(discriminator="name"),
]
