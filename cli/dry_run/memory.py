"""Memory of one GPU: what the learner and the engine hold, from the model's shape and the settings alone.

Weights, gradients and moments are counted; activations are what autograd keeps for the backward pass, by a formula that
is checked against real layers. The allocator's fragmentation, the CUDA context and NCCL's buffers come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from cli.dry_run.shapes import QK_NORM, ModelShape
from shared.errors import SettingsError
from shared.settings import Settings

GIB = 2**30
FLOAT32, BFLOAT16 = 4, 2
LOGIT_TENSORS = 6
"""float32 tensors [tokens of a chunk, vocabulary] that exist at once: of student, teacher, and between them."""
CHUNK_BYTES = 128 * 2**20
"""One of them at most (trainer/head.py)."""
VLLM_SHARE = 0.9
"""What vLLM takes of a GPU where it is not told otherwise."""
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
    adapter: int | None
    """Parameters of the adapter; None: all weights are trained."""
    longest_row: int
    """Tokens of the longest row with gradients."""
    microbatch_tokens: int
    chunk_tokens: int
    copies: tuple[str, ...]
    """Further sets of weights, each with its reason."""
    moment_sets: int
    """AdamW states: one, or two where the E-step has its own."""

    @property
    def divides(self) -> bool:
        """Whether the ranks divide the weights."""
        return self.ranks > 1 and self.adapter is None

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
        ranks=settings.learner.ranks,
        compute_bytes=BFLOAT16 if settings.model.dtype == "bfloat16" else FLOAT32,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        adapter=None if settings.model.lora is None else shape.adapter_parameters(settings.model.lora),
        longest_row=min(prompt + settings.rollout.max_tokens, shape.positions),
        microbatch_tokens=settings.learner.microbatch_tokens,
        chunk_tokens=settings.learner.chunk_tokens,
        copies=tuple(copies),
        moment_sets=1 + (e_step is not None and e_step.optimizer == "own"),
    )


def learner_memory(shape: ModelShape, plan: LearnerPlan) -> dict[str, float]:
    """Bytes on each of the learner's GPUs by what they are, at the peak of a training step."""
    # An adapter and the weights below it are whole on every rank.
    trained = FLOAT32 * (shape.parameters / plan.ranks if plan.adapter is None else float(plan.adapter))
    held = {"weights, float32": trained}
    if plan.adapter is not None:
        held["weights below the adapter"] = float(shape.parameters * plan.compute_bytes)
    # Of an adapter, copies are adapters too: the weights below it do not move.
    held |= {f"copy: {name}": trained for name in plan.copies}
    held |= {"gradients, float32": trained, "AdamW moments, float32": 2 * trained * plan.moment_sets}
    # AdamW's temporaries come when the activations have gone.
    phases = (_forward_end(shape, plan), _backward(shape, plan), {"AdamW's temporaries": trained})
    return held | max(phases, key=lambda phase: sum(phase.values()))


def _forward_end(shape: ModelShape, plan: LearnerPlan) -> dict[str, float]:
    """Autocast keeps its cast copy of every trained weight until the pass ends: on each rank, whole."""
    return {
        "cast weights": _cast(shape, plan),
        "gathered weights": _gathered(shape, plan),
        "activations": _kept_activations(shape, plan),
    }


def _backward(shape: ModelShape, plan: LearnerPlan) -> dict[str, float]:
    """The head's work, one layer's activations (again) with their gradients, and whole gradients under FSDP."""
    whole = FLOAT32 * (shape.layer_parameters + shape.embedding_parameters)
    layers = 2 if plan.gradient_checkpointing else 1
    return {
        "cast weights": 0.0 if plan.gradient_checkpointing else _cast(shape, plan),
        "gathered weights": _gathered(shape, plan),
        "gradients before they are divided": float(whole if plan.divides else 0),
        "activations": _kept_activations(shape, plan),
        "a layer in its backward pass": float(plan.tokens * layers * layer_activation_bytes(shape, plan.compute_bytes)),
        "logits of a chunk": float(LOGIT_TENSORS * _chunk_bytes(shape, plan)),
        "the head's gradient": float(FLOAT32 * shape.vocabulary * shape.hidden if plan.adapter is None else 0),
    }


def _chunk_bytes(shape: ModelShape, plan: LearnerPlan) -> int:
    return min(FLOAT32 * shape.vocabulary * min(plan.chunk_tokens, plan.tokens), CHUNK_BYTES)


def _cast(shape: ModelShape, plan: LearnerPlan) -> float:
    return float(BFLOAT16 * shape.parameters if plan.compute_bytes == BFLOAT16 and plan.adapter is None else 0)


def _gathered(shape: ModelShape, plan: LearnerPlan) -> float:
    """FSDP has the layer at work, the next one, the embedding and the head whole."""
    return float(FLOAT32 * (2 * shape.layer_parameters + shape.embedding_parameters) if plan.divides else 0)


def _kept_activations(shape: ModelShape, plan: LearnerPlan) -> float:
    """From the forward pass for the backward pass: of all layers, or with checkpointing their inputs alone."""
    layer = FLOAT32 * shape.hidden if plan.gradient_checkpointing else layer_activation_bytes(shape, plan.compute_bytes)
    ends = 4 * FLOAT32 * shape.hidden  # the final norm, and the hidden states of student and teacher
    return float(plan.tokens * (shape.layers * layer + ends))


def layer_activation_bytes(shape: ModelShape, compute_bytes: int) -> int:
    """Kept for each token by one layer: a pre- or post-norm block with gated MLP, keys repeated to all heads."""
    norms = 2 * 2 * FLOAT32 * shape.hidden
    # Under autocast each of five matrices has a cast input of its own; in float32 two inputs are shared.
    inputs = 5 * BFLOAT16 * shape.hidden if compute_bytes == BFLOAT16 else 2 * FLOAT32 * shape.hidden
    query_key_norms = 2 * FLOAT32 * (shape.queries + shape.keys) if shape.family in QK_NORM else 0
    attention = 4 * compute_bytes * shape.queries
    mlp = 4 * compute_bytes * shape.intermediate
    return norms + inputs + query_key_norms + attention + mlp


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
    share: float | None
    """Of a GPU's memory, taken whole at the start; None: what is needed, when it is needed."""


def engine_plan(settings: Settings, shape: ModelShape) -> EnginePlan:
    """What these settings make the engine hold."""
    inference = settings.inference
    prompt = settings.teacher_prompt.max_tokens if hasattr(settings.algorithm, "teacher") else _USUAL_PROMPT
    context = inference.max_context or min(prompt + settings.rollout.max_tokens, shape.positions)
    return EnginePlan(
        gpus=int(_argument(settings, "--tensor-parallel-size", 1)),
        bytes_each=BFLOAT16 if settings.model.dtype == "bfloat16" else FLOAT32,
        rows=min(inference.max_batch_rows, settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt),
        context=context,
        share=_argument(settings, "--gpu-memory-utilization", VLLM_SHARE) if inference.engine == "vllm" else None,
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


def _argument(settings: Settings, name: str, default: float) -> float:
    """The number after `name` among vLLM's arguments, or behind its `=`."""
    if settings.inference.engine != "vllm":
        return default
    words = [word for argument in settings.inference.vllm.arguments for word in argument.split("=", 1)]
    try:
        return float(words[words.index(name) + 1]) if name in words[:-1] else default
    except ValueError:
        raise SettingsError(
            f"inference.vllm.arguments: {name} takes a number, not {words[words.index(name) + 1]!r}."
        ) from None


# ------------------------------------------------------------------------------------------------------------- advice


def smallest_gpu(learner: float, engine: float = 0.0, share: float | None = None) -> int | None:
    """The smallest size of `GPUS` for so many bytes of the learner beside an engine that needs its own; None: none.

    The engine takes its `share` of the GPU whether it needs it or not, and no more; the reserve stays free.
    """
    for size in GPUS:
        memory = size * 10**9
        taken = engine if share is None else share * memory
        if engine <= taken and learner + taken + (RESERVE if learner else 0) <= memory:
            return size
    return None


def savings(shape: ModelShape, plan: LearnerPlan) -> Mapping[str, float]:
    """What could be changed, each with the bytes it frees on each GPU, most first."""
    now = sum(learner_memory(shape, plan).values())
    freed = {say: now - sum(learner_memory(shape, other).values()) for say, other in _changes(plan)}
    return dict(sorted(((say, b) for say, b in freed.items() if b > 0), key=lambda item: -item[1]))


def _changes(plan: LearnerPlan) -> Iterator[tuple[str, LearnerPlan]]:
    if not plan.gradient_checkpointing:
        yield "model.gradient_checkpointing=true", replace(plan, gradient_checkpointing=True)
    yield f"learner.ranks={2 * plan.ranks}", replace(plan, ranks=2 * plan.ranks)
    if plan.copies:
        yield f"no copy of the weights ({', '.join(plan.copies)})", replace(plan, copies=())
    if plan.moment_sets > 1:
        yield "algorithm.e_step.optimizer=shared", replace(plan, moment_sets=1)
    if plan.microbatch_tokens > plan.longest_row:
        yield f"learner.microbatch_tokens={plan.longest_row}", replace(plan, microbatch_tokens=plan.longest_row)
    if plan.longest_row > 1024:
        half = plan.longest_row // 2
        shorter = replace(plan, longest_row=half, microbatch_tokens=min(plan.microbatch_tokens, half))
        yield "rollout.max_tokens and teacher_prompt.max_tokens halved", shorter
    if plan.chunk_tokens > 64:
        yield "learner.chunk_tokens=64", replace(plan, chunk_tokens=64)
