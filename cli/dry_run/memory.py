"""Memory of one GPU: what the learner and the engine hold, from the model's shape and the settings alone.

Weights, gradients and moments are counted; activations are what autograd keeps for the backward pass, by a formula that
is checked against real layers. The allocator's fragmentation, the CUDA context and NCCL's buffers come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cli.dry_run.shapes import QK_NORM, ModelShape
from shared.settings import Settings

GIB = 2**30
FLOAT32, BFLOAT16 = 4, 2
LOGIT_TENSORS = 8
"""float32 tensors [chunk_tokens, vocabulary] that exist at once while a chunk's divergence is differentiated."""
RESERVE = 4 * GIB
"""Of a GPU, for what is not counted here."""
GPUS = (24, 40, 80)
"""Sizes of GPUs that are looked at, in GB as they are sold."""
_USUAL_PROMPT = 2048
"""Longest prompt of the reference runs, which leave out longer ones; there is no setting for it."""


@dataclass(frozen=True)
class LearnerPlan:
    """What of the settings the learner's memory depends on."""

    ranks: int
    compute_bytes: int
    """Of one number in a forward pass: 4, or 2 under bfloat16 autocast."""
    gradient_checkpointing: bool
    lora_rank: int | None
    lora_targets: tuple[str, ...]
    longest_row: int
    """Tokens of the longest row with gradients."""
    microbatch_tokens: int
    chunk_tokens: int
    copies: tuple[str, ...]
    """Further sets of weights, each with its reason."""
    moment_sets: int
    """AdamW states: one, or two where the E-step has its own."""

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass with gradients; a row is never cut."""
        return max(self.microbatch_tokens, self.longest_row)


def learner_plan(settings: Settings, shape: ModelShape) -> LearnerPlan:
    """What these settings make the learner hold."""
    algorithm = settings.algorithm
    teacher, e_step = getattr(algorithm, "teacher", None), getattr(algorithm, "e_step", None)
    copies = []
    if teacher is not None and teacher.weights != "live":
        copies.append(f"teacher ({teacher.weights})")
    if e_step is not None and e_step.prior == "fixed":
        copies.append("prior (fixed)")
    if settings.learner.diagnose_every is not None:
        copies.append("initial model (diagnosis)")
    # Only the E-step has gradients through the teacher's prompt.
    prompt = _USUAL_PROMPT if e_step is None else settings.teacher_prompt.max_tokens
    return LearnerPlan(
        ranks=1,
        compute_bytes=BFLOAT16 if settings.model.dtype == "bfloat16" else FLOAT32,
        gradient_checkpointing=False,
        lora_rank=None,
        lora_targets=(),
        longest_row=min(prompt + settings.rollout.max_tokens, shape.positions),
        microbatch_tokens=settings.learner.microbatch_tokens,
        chunk_tokens=settings.learner.chunk_tokens,
        copies=tuple(copies),
        moment_sets=1 + (e_step is not None and e_step.optimizer == "own"),
    )


def learner_memory(shape: ModelShape, plan: LearnerPlan) -> dict[str, float]:
    """Bytes on each of the learner's GPUs by what they are, at the peak of a training step."""
    weights = shape.parameters * FLOAT32 / plan.ranks
    trained = _trained_parameters(shape, plan) * FLOAT32 / plan.ranks
    held = {"weights, float32": weights + (trained if plan.lora_rank is not None else 0)}
    # Of an adapter, copies are adapters too: the weights below it do not move.
    held |= {f"copy: {name}": weights if plan.lora_rank is None else trained for name in plan.copies}
    held |= {"gradients, float32": trained, "AdamW moments, float32": 2 * trained * plan.moment_sets}
    passes = {
        "weights in use": _weights_in_use(shape, plan),
        "activations": activation_bytes(shape, plan),
        "logits of a chunk": float(LOGIT_TENSORS * FLOAT32 * min(plan.chunk_tokens, plan.tokens) * shape.vocabulary),
    }
    # AdamW's temporaries come when the activations have gone: only the larger of the two counts.
    return held | (passes if sum(passes.values()) > trained else {"AdamW's temporaries": trained})


def activation_bytes(shape: ModelShape, plan: LearnerPlan) -> float:
    """Kept by a forward pass for its backward pass, and the gradients of the layer that is being differentiated."""
    layer = layer_activation_bytes(shape, plan.compute_bytes)
    # With checkpointing each layer's input, and one layer that is computed again.
    kept = shape.layers * FLOAT32 * shape.hidden + layer if plan.gradient_checkpointing else shape.layers * layer
    ends = 4 * FLOAT32 * shape.hidden  # the final norm, and the hidden states of student and teacher
    return float(plan.tokens * (kept + layer + ends))


def layer_activation_bytes(shape: ModelShape, compute_bytes: int) -> int:
    """Kept for each token by one layer: a pre- or post-norm block with gated MLP, keys repeated to all heads."""
    norms = 2 * 2 * FLOAT32 * shape.hidden
    # Under autocast each of five matrices has a cast input of its own; in float32 two inputs are shared.
    inputs = 5 * BFLOAT16 * shape.hidden if compute_bytes == BFLOAT16 else 2 * FLOAT32 * shape.hidden
    query_key_norms = 2 * FLOAT32 * (shape.queries + shape.keys) if shape.family in QK_NORM else 0
    attention = 4 * compute_bytes * shape.queries
    mlp = 4 * compute_bytes * shape.intermediate
    return norms + inputs + query_key_norms + attention + mlp


def _trained_parameters(shape: ModelShape, plan: LearnerPlan) -> int:
    if plan.lora_rank is None:
        return shape.parameters
    sizes = shape.linear_shapes
    return shape.layers * plan.lora_rank * sum(sum(sizes[name]) for name in plan.lora_targets)


def _weights_in_use(shape: ModelShape, plan: LearnerPlan) -> float:
    """Autocast's copy of all weights on one rank; under FSDP two gathered layers, the embedding and the head."""
    if plan.ranks == 1:
        return float(shape.parameters * BFLOAT16 if plan.compute_bytes == BFLOAT16 else 0)
    return float(plan.compute_bytes * (2 * shape.layer_parameters + shape.embedding_parameters))


# ----------------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class EnginePlan:
    """What of the settings the engine's memory depends on."""

    gpus: int
    """Over which the weights are divided (tensor parallelism)."""
    bytes_each: int
    rows: int
    context: int
    """Prompt and response tokens of one row at most."""


def engine_plan(settings: Settings, shape: ModelShape) -> EnginePlan:
    """What these settings make the engine hold."""
    inference = settings.inference
    prompt = settings.teacher_prompt.max_tokens if hasattr(settings.algorithm, "teacher") else _USUAL_PROMPT
    context = inference.max_context or min(prompt + settings.rollout.max_tokens, shape.positions)
    return EnginePlan(
        gpus=_argument(inference.vllm.arguments, "--tensor-parallel-size") if inference.engine == "vllm" else 1,
        bytes_each=BFLOAT16 if settings.model.dtype == "bfloat16" else FLOAT32,
        rows=min(inference.max_batch_rows, settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt),
        context=context,
    )


def engine_memory(shape: ModelShape, plan: EnginePlan) -> dict[str, float]:
    """Bytes on each of the engine's GPUs that it cannot do without: the weights, and the keys of one longest row."""
    return {
        "weights": shape.parameters * plan.bytes_each / plan.gpus,
        "keys and values, one row": plan.context * key_value_bytes(shape, plan),
    }


def key_value_bytes(shape: ModelShape, plan: EnginePlan) -> float:
    """Of one token on one of the engine's GPUs."""
    return 2 * shape.layers * shape.keys * plan.bytes_each / plan.gpus


def _argument(arguments: Sequence[str], name: str) -> int:
    """The number after `name`, or behind its `=`; 1 where it is not given."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return int(words[words.index(name) + 1]) if name in words[:-1] else 1


# ------------------------------------------------------------------------------------------------------------- advice


def smallest_gpu(needed: float) -> int | None:
    """The smallest size of `GPUS` that holds so many bytes beside the reserve; None: none does."""
    return next((size for size in GPUS if needed + RESERVE <= size * 10**9), None)


def savings(shape: ModelShape, plan: LearnerPlan) -> Mapping[str, float]:
    """What could be changed, each with the bytes it frees on each GPU, most first."""
    now = sum(learner_memory(shape, plan).values())
    freed = {say: now - sum(learner_memory(shape, other).values()) for say, other in _changes(plan)}
    return dict(sorted(((say, b) for say, b in freed.items() if b > 0), key=lambda item: -item[1]))


def _changes(plan: LearnerPlan) -> Iterator[tuple[str, LearnerPlan]]:
    if plan.copies:
        yield f"no copy of the weights ({', '.join(plan.copies)})", replace(plan, copies=())
    if plan.moment_sets > 1:
        yield "algorithm.e_step.optimizer=shared", replace(plan, moment_sets=1)
    if plan.microbatch_tokens > plan.longest_row:
        yield f"learner.microbatch_tokens={plan.longest_row}", replace(plan, microbatch_tokens=plan.longest_row)
    if plan.chunk_tokens > 256:
        yield "learner.chunk_tokens=256", replace(plan, chunk_tokens=256)
    if plan.longest_row > 1024:
        half = plan.longest_row // 2
        shorter = replace(plan, longest_row=half, microbatch_tokens=min(plan.microbatch_tokens, half))
        yield "rollout.max_tokens and teacher_prompt.max_tokens halved", shorter
