"""Every type that crosses a process boundary, and nothing else.

Vocabulary: a *task* is a prompt with what its feedback source needs to judge it. A *rollout* is what the policy
wrote. *Feedback* is what a source said about it. A *trajectory* is a rollout with its feedback. A *group* is the
trajectories of one prompt (siblings); it is the unit of the queue. A *policy version* counts publications: version
k is the policy after k training steps.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

PROTOCOL = 1

Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
# A number in quotes, true as a number or 1 for true is a mistake of whoever sent it, and no reward.
Number = Annotated[float, Strict()]
Truth = Annotated[bool, Strict()]


class Wire(BaseModel):
    """Base of wire types: unknown fields are errors, values are immutable, NaN and infinity are refused."""

    # Values are ids and texts that do not come again: the parser's cache of them would only hold memory.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, cache_strings="keys")


# ---------------------------------------------------------------------------------------------------------- tasks


class Message(Wire):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class Task(Wire):
    """A prompt and what its outcome source needs to judge an answer.

    `reference` by `kind`: `code.functional` {tests: [{input, output, public}], fn_name, files: {name: text},
    time_limit_s, memory_limit_mb} with `input` one JSON argument a line and `output` JSON; `code.stdin` the same
    without fn_name; `code.assert` {test_code, entry_point}; `choice` and `math` {answer}. Any other kind is a
    user's own: the source that answers for it knows the shape.
    """

    id: Identifier
    kind: str = Field(min_length=1, max_length=64)
    messages: list[Message] = Field(min_length=1)
    reference: dict[str, Any] = Field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- feedback


class Response(Wire):
    """What the policy wrote, as a feedback source sees it."""

    text: str
    finish_reason: Literal["stop", "length", "abort"] = "stop"


class Sibling(Wire):
    """Another rollout of the same prompt, with its outcome (None until the outcome source has answered)."""

    trajectory_id: Identifier
    text: str
    reward: Number | None = None
    success: Truth | None = None


class Said(Wire):
    """What the source called `source` in the settings has said of a rollout, for sources that are asked after it; only
    status `ok` has a text, a reward or a success."""

    source: str
    status: Literal["ok", "abstain", "error", "timeout"]
    text: str | None = None
    reward: Number | None = Field(default=None, ge=0, le=1)
    success: Truth | None = None


class FeedbackItem(Wire):
    """One rollout to judge. `reward` and `success` are the outcome so far, for sources that come after it; `said` is
    what all others said, in the order of the settings, for sources that ask for it (`needs_feedback`)."""

    trajectory_id: Identifier
    group_id: Identifier
    policy_version: int = Field(ge=0)
    task: Task
    response: Response
    reward: Number | None = Field(default=None, ge=0, le=1)
    success: Truth | None = None
    siblings: list[Sibling] = Field(default_factory=list)
    said: list[Said] = Field(default_factory=list)


class FeedbackRequest(Wire):
    """`POST /v1/feedback`. `deadline_s` is how long the caller will wait, in seconds from receipt."""

    run_id: Identifier
    deadline_s: Number = Field(default=30.0, gt=0, le=3600)
    items: list[FeedbackItem] = Field(min_length=1)


class Span(Wire):
    """A remark on characters `start` (inclusive) to `end` (exclusive) of the response text."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    text: str


class FeedbackFailure(Wire):
    """Why there is no feedback. `infra`: ours to retry. `data`: the item cannot be judged."""

    class_: Literal["infra", "data"] = Field(alias="class")
    message: str
    retryable: Truth = False

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class SourceInfo(Wire):
    """Who said it: provenance carried by every piece of feedback."""

    name: str
    kind: Literal["code", "llm", "sibling", "human", "rule", "other"] = "other"
    version: str = "0"


class Feedback(Wire):
    """What one source said about one rollout.

    `status` `ok`: some of reward, success and text are set. `abstain`: the source has nothing to say. `error` and
    `timeout`: it failed; `error` says why. Only `ok` may carry a reward or a text: no failure is a reward of 0.
    """

    trajectory_id: Identifier
    feedback_id: Identifier
    status: Literal["ok", "abstain", "error", "timeout"]
    error: FeedbackFailure | None = None
    reward: Number | None = Field(default=None, ge=0, le=1)
    success: Truth | None = None
    text: str | None = None
    spans: list[Span] = Field(default_factory=list)
    contains_answer: Truth = False
    source: SourceInfo
    latency_ms: Number = Field(default=0.0, ge=0)


class FeedbackResponse(Wire):
    """One result for each item, in any order; every item is answered."""

    results: list[Feedback]


class Job(Wire):
    """Answer 202 of a slow source: poll `GET /v1/jobs/{job_id}`; `DELETE` gives it up."""

    job_id: Identifier
    status: Literal["running", "done", "failed"] = "running"
    results: list[Feedback] | None = None


class Capabilities(Wire):
    """`GET /v1/capabilities`: what a source can do. `task_kinds` ["*"] means any. One that `needs_feedback` is asked
    after all others, and told what they said."""

    name: str
    version: str
    protocol: int = PROTOCOL
    kind: Literal["code", "llm", "sibling", "human", "rule", "other"] = "other"
    task_kinds: list[str] = Field(default_factory=lambda: ["*"])
    gives_reward: Truth = False
    gives_text: Truth = False
    needs_siblings: Truth = False
    needs_feedback: Truth = False
    max_items: int = Field(default=256, ge=1)
    max_bytes: int = Field(default=16 * 2**20, ge=1)


# ------------------------------------------------------------------------------------------------------ inference


class Sampling(Wire):
    """How to sample. `max_tokens` counts response tokens including the end token; with `clamp_max_tokens` it is cut to
    what the context leaves, without, that is an error. With `ignore_end` a response goes on after its end token."""

    temperature: Number = Field(default=1.0, ge=0, le=10)
    top_p: Number = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    clamp_max_tokens: Truth = False
    ignore_end: Truth = False


class Prompt(Wire):
    """Exactly one of chat messages or token ids."""

    messages: list[Message] | None = None
    token_ids: list[int] | None = None


class RolloutRequest(Wire):
    """`POST /v1/rollouts`: `n` rollouts of each prompt, all under one policy version in the transformers engine."""

    prompts: list[Prompt] = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=1024)
    sampling: Sampling = Field(default_factory=Sampling)


class TokenCountRequest(Wire):
    """`POST /v1/token_counts`: how long prompts are."""

    prompts: list[Prompt] = Field(min_length=1)


class TokenCounts(Wire):
    """The tokens of each prompt, in order, as it is sampled from; `max_context` is what prompt and response share."""

    tokens: list[int]
    max_context: int


class VersionSpan(Wire):
    """Response tokens `start` (inclusive) to `end` (exclusive) were sampled under policy `version`."""

    version: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Rollout(Wire):
    """What the policy wrote. `token_ids` includes the end token if one was sampled; `logprobs` are natural logs of
    the sampling distribution (after temperature and top-p), one for each token."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length", "abort"]
    versions: list[VersionSpan]

    @property
    def policy_version(self) -> int:
        """The oldest version any token came from."""
        return min((span.version for span in self.versions), default=0)


class PromptRollouts(Wire):
    """The rollouts of one prompt, with the prompt's token ids as the engine saw them."""

    prompt_token_ids: list[int]
    rollouts: list[Rollout]


class RolloutResponse(Wire):
    """One entry for each prompt, in order."""

    prompts: list[PromptRollouts]


class ScoreSequence(Wire):
    """Tokens to score after a prompt, both as token ids."""

    prompt_token_ids: list[int] = Field(min_length=1)
    token_ids: list[int] = Field(min_length=1)


class ScoreRequest(Wire):
    """`POST /v1/score`: the log-probs of given tokens."""

    sequences: list[ScoreSequence] = Field(min_length=1)


class ScoredSequence(Wire):
    """`logprobs` holds, for each of `token_ids`, the natural log of its probability at temperature 1 under policy
    `version`."""

    logprobs: list[float]
    version: int = Field(ge=0)


class ScoreResponse(Wire):
    """One entry for each sequence, in order."""

    sequences: list[ScoredSequence]


class Canary(Wire):
    """A fixed sequence with the trainer's own log-probs, at temperature 1, of its tokens after the first: what an
    engine that really serves the published weights must give as well."""

    token_ids: list[int] = Field(min_length=2)
    logprobs: list[float] = Field(min_length=1)


class TransferGroup(Wire):
    """`GET /v1/policy/transfer`: which of vLLM's weight transfers the engine was started for, and by how many workers
    it takes part; with the trainer's sender they are `world_size` + 1."""

    backend: Literal["nccl", "ipc"]
    world_size: int = Field(ge=1)


class TransferInit(Wire):
    """`POST /v1/policy/transfer`: make the engine's workers join the transfer, with what vLLM's
    `/init_weight_transfer_engine` takes. For `nccl` it is answered when the trainer has joined as well."""

    backend: Literal["nccl", "ipc"]
    init: dict[str, Any]


class WeightTransfer(Wire):
    """Weights that travel from the trainer's GPU to the engine's while the publication is answered: `update` is what
    vLLM's `/update_weights` takes."""

    backend: Literal["nccl", "ipc"]
    update: dict[str, Any]


class PolicyPublication(Wire):
    """`POST /v1/policy`: serve a version.

    Its weights come from `path`, a Hugging Face model directory below the engine's policy root whose
    `model.safetensors` has the digest `sha256`, or, with `adapter`, a LoRA adapter's directory whose
    `adapter_model.safetensors` has it; or by `transfer`, and then `path` and `sha256` are None.
    """

    run_id: Identifier
    version: int = Field(ge=0)
    path: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    adapter: Truth = False
    transfer: WeightTransfer | None = None
    canary: Canary | None = None


class PolicyState(Wire):
    """`GET /v1/policy[?unlike=RUN_ID:VERSION&wait_s=S]`: what is served now; with `unlike`, answers when it differs.

    `run_id` is None until a learner has published: then the engine serves the model it was started with. `blocked` is
    None, or why nothing is sampled until a version is published that passes.
    """

    run_id: str | None = None
    version: int = Field(default=0, ge=0)
    sha256: str | None = None
    model: str
    max_context: int
    blocked: str | None = None


# ----------------------------------------------------------------------------------------------------- trajectory


class Trajectory(Wire):
    """A rollout with what every source said about it. `reward` and `success` are the outcome source's, or None."""

    trajectory_id: Identifier
    rollout: Rollout
    feedback: list[Feedback] = Field(default_factory=list)
    reward: Number | None = None
    success: Truth | None = None


class RolloutGroup(Wire):
    """The unit of the queue: the siblings of one prompt, for training step `step` (0-based), made by policy
    `policy_version`. Its prompt is number `index` of the step's; `attempt` counts how often it was sampled anew because
    an earlier group was dropped. `timings_s` holds the seconds the collector spent, by phase, on the batch it came
    from."""

    run_id: Identifier
    group_id: Identifier
    step: int = Field(ge=0)
    index: int = Field(default=0, ge=0)
    attempt: int = Field(default=0, ge=0)
    policy_version: int = Field(ge=0)
    task: Task
    prompt_token_ids: list[int]
    trajectories: list[Trajectory] = Field(min_length=1)
    timings_s: dict[str, float] = Field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------- human


class Critique(Wire):
    """`PUT /v1/rollouts/{trajectory_id}/critiques/{identifier}`: what a person wrote about a rollout.

    At least one of `text`, `spans` and `corrected_response` has words: they are what the teacher reads
    (`shared/critique_text.py`). `verdict` and `score` override no outcome: they are kept for people.
    """

    text: str = Field(default="", max_length=20_000)
    verdict: Literal["correct", "incorrect", "unsure"] | None = None
    score: Number | None = Field(default=None, ge=0, le=1)
    spans: list[Span] = Field(default_factory=list, max_length=100)
    corrected_response: str | None = Field(default=None, max_length=200_000)
    author: str | None = Field(default=None, max_length=200)


class CritiqueState(Wire):
    """A stored critique and what became of it. `seq` grows with every write: the learner's cursor, and the ETag.

    `queued`: no step has used it yet. `used`: it stood in the teacher's prompt at step `step`, and `policy_version` is
    the first policy that has learned from it. `stale`: it will not be used; `reason` says why.
    """

    critique_id: Identifier
    trajectory_id: Identifier
    identifier: Identifier
    critique: Critique
    status: Literal["queued", "used", "stale"] = "queued"
    step: int | None = None
    policy_version: int | None = None
    reason: str | None = None
    seq: int
    updated_at: str


class CritiqueUse(Wire):
    """`POST /v1/rollouts/{trajectory_id}/critiques/{identifier}/use`: the learner reports what became of it."""

    status: Literal["used", "stale"]
    step: int = Field(ge=0, lt=2**63)
    policy_version: int | None = Field(default=None, ge=0, lt=2**63)
    reason: str | None = Field(default=None, max_length=1000)


class CritiquePage(Wire):
    """`GET /v1/critiques`: in the order of their last writes; `next_cursor` fetches later ones, None at the end."""

    items: list[CritiqueState]
    next_cursor: str | None = None


class NewCritique(Critique):
    """`POST /v1/critiques`: a critique with the rollout it is about. Without `identifier` it gets a new one."""

    trajectory_id: Identifier
    identifier: Identifier | None = None


class CritiqueBatch(Wire):
    """`POST /v1/critiques/batch`: each entry is a NewCritique; a wrong one costs itself alone."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class BatchResult(Wire):
    """What became of one entry of a batch: `critique` where it is stored, `error` and its `field` where it is not."""

    critique: CritiqueState | None = None
    error: str | None = None
    field: str | None = None


class BatchResults(Wire):
    """One result for each entry, in order."""

    results: list[BatchResult]


class RolloutRecord(Wire):
    """`GET /v1/rollouts/{trajectory_id}`: a rollout as human-feedback was asked about it, with its critiques.

    `run_id`, `asked_at` and `item` are None while only critiques have arrived.
    """

    trajectory_id: Identifier
    run_id: Identifier | None = None
    asked_at: str | None = None
    item: FeedbackItem | None = None
    critiques: list[CritiqueState] = Field(default_factory=list)


class RolloutPage(Wire):
    """`GET /v1/rollouts`: newest first; `next_cursor` fetches older ones, None at the end."""

    items: list[RolloutRecord]
    next_cursor: str | None = None
