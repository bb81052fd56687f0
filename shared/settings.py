"""One strict settings tree for every process.

Order of precedence: `--set a.b=c`, then `VPD_A__B` in the environment, then the recipe (TOML), then the defaults
here. Unknown keys are errors with a did-you-mean. What each algorithm can be told is in `algorithm_settings.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.algorithm_settings import AlgorithmSettings, GRPOTerm, Positive, Share, Strict, VPDSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
IsoDate = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]

SCIENCES = ("biology", "chemistry", "material", "physics")
"""SciKnowEval's domains."""


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


class LoRASettings(Strict):
    """A low-rank adapter (arXiv 2106.09685) in place of full fine-tuning: W + alpha / rank * B A, with W as it was."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rows of A and columns of B. Setting any of these turns LoRA on; without them all weights are trained."""
    alpha: Positive = 32.0
    """Scale of the adapter, relative to the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before A, in passes that gradients flow through; log-probs are then not quite the policy's own."""
    targets: list[str] | None = None
    """Last names of the linear layers that have one, such as ["q_proj", "v_proj"]; None: all but the output head."""
    publish: Literal["merged", "adapter"] = "merged"
    """merged: the engine is handed whole weights; adapter: the adapter alone, which needs the engine vllm."""


class ModelSettings(Strict):
    """The model to post-train."""

    path: str = "builtin:renamed_library"
    """A Hugging Face model directory or hub id, or `builtin:WORLD[/VARIANT]` for a model that ships with the
    project (docs/worlds.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the trainer and the transformers engine compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Weights that are trained are always float32; those below an adapter are kept in this type."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """The trainer's attention. auto: flash attention where it is installed and the trainer computes in bfloat16 on a
    GPU, else torch's own. With flash attention rows are packed, without padding."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, about a third more
    time."""
    lora: LoRASettings | None = None
    """An adapter to train in place of all weights."""


class LiveCodeBenchSettings(Strict):
    """Tasks from `livecodebench:` (docs/tasks.md)."""

    from_date: IsoDate = "2025-02-01"
    """First contest date taken; the paper's subset of version 6 begins here."""
    to_date: IsoDate = "2025-05-01"
    """First contest date that is no longer taken."""
    protocol: Literal["questions", "tests"] = "questions"
    """questions: held-out questions are never trained on. tests: the paper's; every question is trained on with a part
    of its private tests and held out with all of its tests."""
    training_tests: Share = 0.5
    """Share of the private tests, at least one, that protocol `tests` trains on."""
    max_tests_mb: Positive = 16.0
    """Input and output of one question's tests at most, in MB; the largest tests are left out, and counted."""


class SciKnowEvalSettings(Strict):
    """Tasks from `sciknoweval:` (docs/tasks.md)."""

    domains: list[str] = Field(default_factory=lambda: list(SCIENCES), min_length=1)
    """Those of biology, chemistry, material and physics that are taken."""
    level: Literal["L1", "L2", "L3", "L4", "L5"] = "L3"
    """Which level of the hub's rows is taken; the paper's is L3."""

    @field_validator("domains")
    @classmethod
    def _are_domains(cls, value: list[str]) -> list[str]:
        if unknown := [domain for domain in value if domain not in SCIENCES]:
            raise ValueError(f"there is no domain {unknown[0]!r}: they are {', '.join(SCIENCES)}")
        return value


class MathSettings(Strict):
    """Tasks from `math:` (docs/tasks.md)."""

    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    """Stands below every problem."""


class HuggingFaceSettings(Strict):
    """Tasks from `hf:`, any dataset (docs/tasks.md)."""

    prompt: str = "prompt"
    """Column with the prompt: text, or a list of chat messages."""
    answer: str = "answer"
    """Column with the reference: an answer, or an object where the kind needs more."""
    kind: Annotated[str, Field(min_length=1, max_length=64)] = "math"
    """The tasks' kind, which says how the reference is read: math, choice, or one that a source of your own knows."""
    system: str | None = None
    """System prompt of every task; None: none."""


class TaskSettings(Strict):
    """Where prompts come from."""

    source: str = "builtin:renamed_library"
    """`builtin:WORLD`, `livecodebench:DATA`, `sciknoweval:DATA`, `math:DATA`, `hf:DATA`, or the path of a JSONL file of
    your own; DATA is a path or a dataset's name on the Hugging Face hub (docs/tasks.md)."""
    held_out: str | None = None
    """Held-out tasks, written like `source`; None: the world's own, the data's own test split, or a drawn share."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the tasks, at least one, that is held out where none are named."""
    split_seed: Annotated[int, Field(ge=0)] = 42
    """Draws which tasks are held out. It is not `run.seed`, so that runs with other seeds hold out the same."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Training tasks at most, the first ones; None: all."""
    max_prompt_chars: Annotated[int, Field(ge=1)] | None = None
    """Tasks with longer prompts are left out; None: none. `vpd data check` tells how long they are."""
    world_seed: Annotated[int, Field(ge=0)] = 0
    """Draws the built-in world (which functions were renamed to what)."""
    livecodebench: LiveCodeBenchSettings = LiveCodeBenchSettings()
    """Of `livecodebench:`."""
    sciknoweval: SciKnowEvalSettings = SciKnowEvalSettings()
    """Of `sciknoweval:`."""
    math: MathSettings = MathSettings()
    """Of `math:`."""
    huggingface: HuggingFaceSettings = HuggingFaceSettings()
    """Of `hf:`."""


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
    mode: Literal["lockstep", "overlapped"] = "lockstep"
    """lockstep: sample with version k, learn, publish k + 1; exactly on-policy, and reproducible. overlapped:
    collectors run ahead of the learner."""
    max_policy_lag: Annotated[int, Field(ge=1)] = 2
    """In overlapped mode: how many versions old a rollout may be when it is trained on; staler groups are dropped and
    their prompts sampled again."""
    collectors: Annotated[int, Field(ge=1, le=64)] = 1
    """Collector processes that `vpd up` starts; several need mode overlapped."""

    @property
    def policy_lag(self) -> int:
        """How many versions old a rollout may be when it is trained on, in this mode."""
        return self.max_policy_lag if self.mode == "overlapped" else 0

    @model_validator(mode="after")
    def _one_collector_in_lockstep(self) -> Self:
        if self.mode == "lockstep" and self.collectors > 1:
            raise ValueError("collectors must be 1 in mode 'lockstep'; several need mode 'overlapped'")
        return self


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
    required: bool = False
    """Whether the run stops where this source stays away for `feedback.max_outage_s`; otherwise it goes on without it,
    and says so. The source that sets the reward is always required."""
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
    """How long a source may be away before the run stops with a sentence, or goes on without it."""
    max_infra_failures: Share = 0.5
    """Share of the last 10 steps' rollouts that may stay without an outcome because its source failed; beyond it the
    run stops with a sentence."""
    max_data_failures: Share = 0.5
    """The same for rollouts that the outcome source cannot judge, because something is wrong with the item itself."""

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
    max_deliveries: Annotated[int, Field(ge=1)] = 5
    """A group delivered more often than this, and never in a checkpoint, goes to the dead-letter stream: it may be what
    kills the learner."""
    max_outage_s: Positive = 120.0
    """How long Redis may be away, or full, before the run stops with a sentence."""
    lease_s: Positive = 60.0
    """In overlapped mode: how long a collector that is not heard of keeps the prompts it has taken."""


class TeacherPromptSettings(Strict):
    """What the teacher sees besides the question (ALGORITHM section 4; SDPO's templates)."""

    demonstration: bool = True
    """Show a successful sibling's response."""
    feedback: Literal["without_demonstration", "always", "never"] = "without_demonstration"
    """When feedback text is shown."""
    failure_feedback: Literal["own", "sibling"] = "own"
    """Whose feedback the E-step scores a failure under: `sibling` takes another failed rollout's where there is one,
    for sources whose text repeats the attempt itself."""
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
    control: Literal["none", "shuffled", "dropped", "repeated"] = "none"
    """Negative controls: contexts exchanged among prompts, left out, or all of them the step's first."""


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
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0 takes the likeliest token, and needs `samples` 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling."""

    @model_validator(mode="after")
    def _greedy_rollouts_are_all_the_same(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples must be 1 at temperature 0: greedy rollouts of a task are all the same")
        return self


class LearnerSettings(Strict):
    """How the learner computes and what it keeps."""

    microbatch_tokens: Annotated[int, Field(ge=64)] = 16_384
    """Tokens (prompt and response, padded) in one forward pass."""
    chunk_tokens: Annotated[int, Field(ge=16)] = 1024
    """Response tokens whose logits exist at once at most; fewer where their float32 logits would be over 128 MiB, on a
    CPU 80 MiB."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Steps between checkpoints; groups are acknowledged at the checkpoint."""
    critique_window_steps: Annotated[int, Field(ge=1)] = 20
    """Critique on a rollout of the last so many steps is trained on; older is stale."""
    diagnose_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between measurements of the implicit reward's margin against the student and against the initial model;
    each costs three forward passes, and all of them a copy of the initial weights. None: never."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept, beside the best."""
    keep_batches: Annotated[int, Field(ge=1)] | None = None
    """Steps whose batches are kept for `vpd replay`, at about 11 bytes a token; None keeps all. Those that the newest
    checkpoints need are always kept."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads; None is torch's choice."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that train together, with a GPU each and the rows divided among them, and the weights too unless an
    adapter is trained; a run may go on with another number. Under torchrun its own number counts."""


class TrackingSettings(Strict):
    """Trackers that a run's figures are sent to, beside its own metrics.jsonl (docs/observability.md)."""

    project: Name = "vpd"
    """Project of the run at Trackio and W&B, experiment at MLflow."""
    tensorboard: bool = False
    """Event files in the run's directory, in `tensorboard/`; needs the extra `tensorboard`."""
    trackio: bool | Url = False
    """true: Trackio's database on this machine, in TRACKIO_DIR (needs the extra `trackio`); a URL: a Trackio server,
    whose write token is read from TRACKIO_WRITE_TOKEN."""
    wandb: bool = False
    """Weights & Biases, with the key in WANDB_API_KEY or of `wandb login`; without one the run is kept in the run's
    directory for `wandb sync`. Needs the extra `wandb`."""
    mlflow: Url | None = None
    """Tracking server of MLflow; its credentials are read from MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD. Needs the extra `mlflow`."""
    flush_s: Positive = 10.0
    """How long the end of a run waits for trackers that are behind, in seconds."""

    @field_validator("trackio", "mlflow")
    @classmethod
    def _holds_no_secret(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and (urlsplit(value).username or "token=" in value):
            raise ValueError("a URL must not hold a secret: settings are stored with the run; use the environment")
        return value


class VLLMSettings(Strict):
    """vLLM, where it is the engine."""

    url: Url | None = None
    """A vLLM server that runs elsewhere, prepared as docs/inference.md says; None: the service starts one of its own,
    which nobody else can reach."""
    api_key: SecretStr | None = None
    """Bearer key of that server."""
    python: str | None = None
    """A Python that has vLLM; None: the environment that `vpd up --engine vllm` makes, `.venv-vllm`."""
    arguments: list[str] = Field(default_factory=list)
    """Further arguments of vLLM's server, such as ["--tensor-parallel-size", "2"]."""
    kv_cache_gb: Annotated[int, Field(ge=1)] = 1
    """Memory for keys and values, in GiB; only on a CPU."""
    start_timeout_s: Positive = 600.0
    """How long vLLM may take to load the model, in seconds."""
    lora_rank: Annotated[int, Field(ge=1)] | None = None
    """Largest rank of published LoRA adapters; None: no adapters."""


class InferenceSettings(Strict):
    """The inference service, as its clients and as itself see it."""

    url: Url = "http://127.0.0.1:8201"
    """Where rollouts come from and policies are published to."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model: transformers needs nothing else, vllm is for models and loads that are worth it."""
    policy_root: str = "runs"
    """The service loads policies only from below this directory."""
    publish: Literal["files", "nccl", "ipc"] = "files"
    """How the trainer hands new weights over: files on a volume both see, or vLLM's transfer between GPUs (nccl) or on
    one GPU (ipc)."""
    canary_nats: Positive | None = None
    """How far the engine's log-probs of a version's canary may be from the trainer's; None: 0.001 in float32, 0.25 in
    bfloat16."""
    max_context: Annotated[int, Field(ge=16)] | None = None
    """Prompt and response tokens at most; None: what the model has positions for."""
    max_batch_rows: Annotated[int, Field(ge=1)] = 256
    """Sequences generated together."""
    timeout_s: Positive = 300.0
    """Deadline of one call, in seconds."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads of the engine; None is torch's choice."""
    vllm: VLLMSettings = Field(default_factory=VLLMSettings)
    """Of the engine vllm."""


class CodeFeedbackSettings(Strict):
    """The code-execution feedback service."""

    isolation: Literal["auto", "bubblewrap", "landlock", "docker", "unsafe"] = "auto"
    """auto takes the stronger of bubblewrap and landlock that a live probe shows to hold; docker takes a container for
    each program; unsafe is plain limits. Any but auto is taken or the service refuses to start."""
    docker_image: str | None = None
    """Image of the tier docker; it must have Python 3.11 or later as `python3`."""
    docker_host: Annotated[str, Field(pattern=r"^(unix|tcp)://.+")] | None = None
    """Engine of the tier docker; None: DOCKER_HOST, or the local one."""
    docker_runtime: str | None = None
    """Its runtime, such as runsc; None: the engine's default."""
    docker_memory_mb: Annotated[int, Field(ge=64)] = 1024
    """Memory of one container; a task's own limit counts within it."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Candidates run at once; None: cores + 1."""
    queue_limit: Annotated[int, Field(ge=1)] = 4096
    """Programs that may wait or run; a request that would not fit is refused with 429, unless nothing else waits."""
    time_limit_s: Positive = 6.0
    """CPU seconds a test, where the task names none."""
    memory_limit_mb: Annotated[int, Field(ge=16)] = 512
    """Memory, where the task names none."""
    max_failures: Annotated[int, Field(ge=1, le=10)] = 3
    """Failing tests after which the rest are not run, where the task names no other number."""
    max_feedback_chars: Annotated[int, Field(ge=100)] = 2000
    """Longest feedback text."""

    @model_validator(mode="after")
    def _has_an_image(self) -> Self:
        if self.isolation == "docker" and self.docker_image is None:
            raise ValueError("code_feedback.isolation 'docker' needs code_feedback.docker_image")
        return self


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
    equality_workers: Annotated[int, Field(ge=1)] = 2
    """Processes that compare mathematics by math-verify, started when they are first needed."""
    equality_limit_s: Positive = 2.0
    """CPU seconds of one comparison; an answer that needs more is wrong."""


class HumanFeedbackSettings(Strict):
    """The human feedback service."""

    database: str = "runs/human_feedback.sqlite3"
    """Where critiques and the rollouts they are about are kept: an SQLite file, or `postgresql://USER@HOST/NAME` (needs
    the extra `postgres`; the password is read from PGPASSWORD)."""
    review: Literal["all", "failed", "sample", "uncertain"] = "failed"
    """Which rollouts people are given to review: all, those whose outcome is a failure, a random `review_share`, or
    those of groups whose siblings' rewards differ, most first."""
    review_share: Share = 0.1
    """Share of the rollouts that `review` sample shows."""
    reviews_per_rollout: Annotated[int, Field(ge=1)] = 1
    """A rollout leaves the review queue when so many critiques of it are there."""
    lease_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """For how long a rollout is one reviewer's alone, in seconds, unless it is renewed."""
    wait_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a question about rollouts in the review queue waits for people, in seconds, at most to its own deadline;
    0 answers at once with what is there. Training waits as long."""
    blind: bool = True
    """Hide a rollout's outcome, what other sources said of it, and its task's reference from a reviewer until a first
    draft is saved."""
    guidelines: str | None = None
    """A text or Markdown file that is given to every reviewer."""
    read_key: SecretStr | None = None
    """Key that reads; None: one is made at the first start and printed once. Without `api_key` no key is asked for."""
    review_key: SecretStr | None = None
    """Key that reads and reviews."""
    ingest_key: SecretStr | None = None
    """Key that reads, writes critiques and asks for feedback."""


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
    tracking: TrackingSettings = TrackingSettings()
    inference: InferenceSettings = InferenceSettings()
    code_feedback: CodeFeedbackSettings = CodeFeedbackSettings()
    critic_feedback: CriticFeedbackSettings = CriticFeedbackSettings()
    human_feedback: HumanFeedbackSettings = HumanFeedbackSettings()
    service: ServiceSettings = ServiceSettings()

    @model_validator(mode="after")
    def _has_what_the_algorithm_learns_from(self) -> Self:
        algorithm, prompt = self.algorithm, self.teacher_prompt
        compares = isinstance(algorithm, GRPOTerm) or hasattr(algorithm, "grpo")
        if compares and self.rollout.samples_per_prompt < 2:
            raise ValueError(
                f"rollout.samples_per_prompt must be at least 2 for algorithm '{algorithm.name}': it compares siblings"
            )
        passes = getattr(algorithm, "m_step", algorithm)
        if self.rollout.mode == "overlapped" and getattr(passes, "importance_cap", 1.0) is None:
            raise ValueError(
                "importance_cap must be a number in rollout.mode 'overlapped': rollouts are older than the policy"
            )
        if hasattr(algorithm, "teacher") and prompt.feedback == "never" and not prompt.demonstration:
            raise ValueError(
                f"teacher_prompt shows neither feedback nor demonstrations, so algorithm '{algorithm.name}' would have "
                "no teacher; allow one of them, or take algorithm.name=grpo"
            )
        return self

    @model_validator(mode="after")
    def _can_publish_the_adapter(self) -> Self:
        lora, inference = self.model.lora, self.inference
        if lora is not None and inference.publish != "files":
            raise ValueError(f"inference.publish must be 'files' with model.lora, not '{inference.publish}'")
        if lora is not None and lora.publish == "adapter":
            allowed = inference.vllm.lora_rank or 0
            if inference.engine != "vllm" or allowed < lora.rank:
                raise ValueError(
                    "model.lora.publish 'adapter' needs inference.engine 'vllm' and inference.vllm.lora_rank of at "
                    f"least {lora.rank}; 'merged' needs neither"
                )
        return self
