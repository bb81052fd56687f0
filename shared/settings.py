"""One strict settings tree for every process.

Order of precedence: `--set a.b=c`, then `VPD_A__B` in the environment, then the recipe (TOML), then the defaults
here. Unknown keys are errors with a did-you-mean. What each algorithm can be told is in `AlgorithmSettings`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Base of all settings: unknown keys, infinity and NaN are errors, defaults are checked."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class RunSettings(Strict):
    """What the run is called, how long it is, where it leaves its files."""

    name: Name = "demo"
    """Directory name under `dir`, and prefix of every id."""
    dir: str = "runs"
    """Where run directories are made."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Seeds task order, sampling and every other draw."""
    steps: Annotated[int, Field(ge=1)] = 80
    """Training steps; each takes `rollout.prompts_per_step` groups and publishes one policy version."""


class ModelSettings(Strict):
    """The model to post-train."""

    path: str = "builtin:renamed_library"
    """A Hugging Face model directory or hub id, or `builtin:WORLD` for a model that ships with the project."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the trainer and the transformers engine compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; master weights are always float32."""


class TaskSettings(Strict):
    """Where prompts come from."""

    source: str = "builtin:renamed_library"
    """`builtin:WORLD`, or the path of a JSONL file with one Task a line."""
    held_out: str | None = None
    """JSONL file of held-out tasks; None: the world's own, or a seeded tenth of the file."""
    world_seed: Annotated[int, Field(ge=0)] = 0
    """Draws the built-in world (which functions were renamed to what)."""


class RolloutSettings(Strict):
    """How the student rolls out."""

    prompts_per_step: Annotated[int, Field(ge=1)] = 16
    """Groups in a step."""
    samples_per_prompt: Annotated[int, Field(ge=1)] = 8
    """Siblings in a group."""
    temperature: Positive = 1.0
    """Sampling temperature in training."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling in training."""
    max_tokens: Annotated[int, Field(ge=1)] = 48
    """Response tokens at most."""


class SourceSettings(Strict):
    """One feedback source: any URL that speaks the feedback protocol."""

    url: Url
    """Base path; `/v1/feedback` and `/v1/capabilities` are below it."""
    role: Literal["outcome", "critique", "both"] = "critique"
    """`outcome` sets the reward, `critique` gives text, `both` does both."""
    when: Literal["always", "failed"] = "always"
    """`failed`: ask only about rollouts that did not succeed."""
    timeout_s: Positive = 30.0
    """Deadline of one call, retries included, in seconds."""
    max_chars: Annotated[int, Field(ge=1)] = 2000
    """Longer texts are cut in the middle, and counted."""
    shadow: bool = False
    """Asked and recorded, never trained on."""
    api_key: SecretStr | None = None
    """Bearer key of this source; None: the stack's own."""


class FeedbackSettings(Strict):
    """Which sources are asked, and what happens when they fail."""

    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], SourceSettings] = Field(
        default_factory=lambda: {
            "code": SourceSettings(url="http://127.0.0.1:8202", role="both"),
            "human": SourceSettings(url="http://127.0.0.1:8204", role="critique", timeout_s=5.0),
        }
    )
    """Sources by name, asked in this order; exactly one has role `outcome` or `both` outside the shadow."""
    max_outage_s: Positive = 120.0
    """How long the outcome source may be away before the run stops with a sentence."""

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        setters = [n for n, s in self.sources.items() if s.role in ("outcome", "both") and not s.shadow]
        if len(setters) != 1:
            found = ", ".join(setters) or "none"
            raise ValueError(f"exactly one source must have role 'outcome' or 'both', found: {found}")
        return self


class QueueSettings(Strict):
    """The trajectory queue."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://")] = "redis://127.0.0.1:6379/0"
    """Redis 6.2 or later, or Valkey."""
    max_deliveries: Annotated[int, Field(ge=1)] = 3
    """A group delivered more often than this goes to the dead-letter stream."""


class TeacherPromptSettings(Strict):
    """What the teacher sees besides the question (ALGORITHM section 4; SDPO's templates)."""

    demonstration: bool = True
    """Show a successful sibling's response."""
    feedback: Literal["without_demonstration", "always", "never"] = "without_demonstration"
    """When feedback text is shown."""
    demonstration_header: str = "\n\nCorrect solution:\n\n"
    """Before the sibling's response."""
    feedback_header: str = "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
    """Before feedback on a failed attempt."""
    success_header: str = "\n\nThe following is feedback from your earlier attempt:\n\n"
    """Before feedback on a successful attempt (E-step only)."""
    closing: str = "\n\nCorrectly solve the original question."
    """The last sentence."""
    remove_thinking: bool = True
    """Cut <think> spans from demonstrations."""
    max_tokens: Annotated[int, Field(ge=16)] = 10_240
    """Longest teacher prompt; feedback is cut to fit, never the question or the closing."""
    control: Literal["none", "shuffled", "dropped"] = "none"
    """Negative controls: contexts exchanged among prompts, or left out."""


class OptimizerSettings(Strict):
    """AdamW and its schedule; the peak rate is the algorithm's own, since each is compared at its tuned rate."""

    warmup_steps: Annotated[int, Field(ge=0)] = 5
    """Linear warm-up, in training steps."""
    final_share: Share = 0.05
    """Linear decay ends at this share of the peak; 1 keeps the rate constant."""
    beta1: Share = 0.9
    """AdamW's first moment."""
    beta2: Share = 0.999
    """AdamW's second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""


class DistillSettings(Strict):
    """The M-step: distil the teacher into the student on its own rollouts (ALGORITHM section 3)."""

    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """D(student, teacher): reverse is KL(student || teacher)."""
    jsd_alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of the teacher in the mixture; only for `jsd`."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Support: the student's top K plus a tail bucket; None is the whole vocabulary."""
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """token_mean divides the sum over tokens by all tokens of the step's rows; sequence_mean averages each row's
    mean over the rows."""
    importance_cap: Positive = 2.0
    """Cap of the token weights pi_theta / pi_sampler."""


class TeacherSettings(Strict):
    """Whose weights score the teacher's prompt."""

    weights: Literal["live", "ema", "trust_region", "frozen"] = "live"
    """live: the student's own; ema: their moving average; trust_region: logits between the initial model's and the
    student's; frozen: the initial model."""
    rate: Share = 0.05
    """Of `ema` and `trust_region`."""


class EStepSettings(Strict):
    """The E-step: refine the teacher on outcomes, unpaired (ALGORITHM sections 2 and 10)."""

    every: Annotated[int, Field(ge=1)] = 1
    """F: one E-step for every F M-steps (the paper: 5)."""
    gradient_steps: Annotated[int, Field(ge=1)] = 1
    """Gradient steps in one E-step."""
    beta: Positive = 0.1
    """Scale of the implicit reward."""
    prior: Literal["dynamic", "fixed"] = "dynamic"
    """Reference of the implicit reward: the current student, or the initial model."""
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


class GRPOTerm(Strict):
    """Group-relative policy optimisation (ALGORITHM section 6)."""

    normalise_std: bool = True
    """Divide advantages by the group's standard deviation."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio."""
    clip_high: Positive = 0.28
    """Upper clip of the ratio."""


class VPDSettings(Strict):
    """Variational Policy Distillation."""

    name: Literal["vpd"] = "vpd"
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    teacher: TeacherSettings = TeacherSettings(weights="ema", rate=0.2)
    """Whose weights the M-step distils; the paper's is `live`, which loses the structure of answers on some seeds."""
    e_step: EStepSettings = EStepSettings()
    m_step: DistillSettings = DistillSettings()


class SDPOSettings(Strict):
    """Self-Distillation Policy Optimisation: the M-step alone."""

    name: Literal["sdpo"] = "sdpo"
    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    teacher: TeacherSettings = TeacherSettings(weights="ema")
    m_step: DistillSettings = DistillSettings()


class GRPOSettings(GRPOTerm):
    """Reward only, no text."""

    name: Literal["grpo"] = "grpo"
    learning_rate: Positive = 3e-3
    """Peak learning rate."""


AlgorithmSettings = Annotated[VPDSettings | SDPOSettings | GRPOSettings, Field(discriminator="name")]


class EvaluationSettings(Strict):
    """Held-out accuracy of student and teacher."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between evaluations in training."""
    tasks: Annotated[int, Field(ge=1)] = 64
    """Held-out tasks in an evaluation in training."""
    final_tasks: Annotated[int, Field(ge=1)] = 300
    """Held-out tasks before and after the run."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Rollouts of each task."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling."""


class LearnerSettings(Strict):
    """How the learner computes and what it keeps."""

    microbatch_tokens: Annotated[int, Field(ge=64)] = 16_384
    """Tokens (prompt and response, padded) in one forward pass."""
    chunk_tokens: Annotated[int, Field(ge=16)] = 1024
    """Response tokens whose logits exist at once."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Steps between checkpoints; groups are acknowledged at the checkpoint."""
    critique_window_steps: Annotated[int, Field(ge=1)] = 20
    """Critique on a rollout of the last so many steps is trained on; older is stale."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads; None is torch's choice."""


class InferenceSettings(Strict):
    """The inference service, as its clients and as itself see it."""

    url: Url = "http://127.0.0.1:8201"
    """Where rollouts come from and policies are published to."""
    engine: Literal["transformers"] = "transformers"
    """What runs the model."""
    policy_root: str = "runs"
    """The service loads policies only from below this directory."""
    max_batch_rows: Annotated[int, Field(ge=1)] = 256
    """Sequences generated together."""
    timeout_s: Positive = 300.0
    """Deadline of one call, in seconds."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads of the engine; None is torch's choice."""


class CodeFeedbackSettings(Strict):
    """The code-execution feedback service."""

    isolation: Literal["auto", "bubblewrap", "landlock", "unsafe"] = "auto"
    """auto takes the strongest tier a live probe shows to hold; unsafe is plain limits and must be asked for."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Candidates run at once; None: cores + 1."""
    time_limit_s: Positive = 6.0
    """CPU seconds a test, where the task names none."""
    memory_limit_mb: Annotated[int, Field(ge=16)] = 512
    """Memory, where the task names none."""
    max_feedback_chars: Annotated[int, Field(ge=100)] = 2000
    """Longest feedback text."""


class CriticFeedbackSettings(Strict):
    """The critic feedback service."""

    critic_url: Url | None = None
    """Any OpenAI-compatible base URL (".../v1"); None: the inference service, so that the policy criticises itself."""
    critic_model: str = "policy"
    """Model name sent to it."""
    critic_api_key: SecretStr | None = None
    """Its bearer key; None: the stack's own."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest critique."""


class HumanFeedbackSettings(Strict):
    """The human feedback service."""

    database: str = "runs/human_feedback.sqlite3"
    """Where critiques and the rollouts they are about are kept."""


class ServiceSettings(Strict):
    """What every HTTP service has."""

    host: str = "127.0.0.1"
    """Address to bind."""
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    """Larger request bodies are refused with 413."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON elsewhere."""


class Settings(Strict):
    """The whole tree; each process reads the parts it needs."""

    api_key: SecretStr | None = None
    """Bearer key of the stack's services (`VPD_API_KEY`); None: `vpd up` generates one."""
    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    tasks: TaskSettings = TaskSettings()
    rollout: RolloutSettings = RolloutSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    queue: QueueSettings = QueueSettings()
    teacher_prompt: TeacherPromptSettings = TeacherPromptSettings()
    algorithm: AlgorithmSettings = VPDSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    learner: LearnerSettings = LearnerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    inference: InferenceSettings = InferenceSettings()
    code_feedback: CodeFeedbackSettings = CodeFeedbackSettings()
    critic_feedback: CriticFeedbackSettings = CriticFeedbackSettings()
    human_feedback: HumanFeedbackSettings = HumanFeedbackSettings()
    service: ServiceSettings = ServiceSettings()
