"""One side of bench/learner.py, alone in its process: prints what it has measured as a line of JSON.

python -m bench.learner_side trl|sdpo|vpd SHAPE TOP_K DEVICE
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from bench.learner import CYCLE, FULL, SHAPES, Measured, Shape
from shared.algorithm_settings import (
    DistillSettings,
    EStepSettings,
    SDPOSettings,
    TeacherSettings,
    VPDSettings,
)
from shared.protocol import Message, Rollout, RolloutGroup, Task, Trajectory, VersionSpan
from shared.settings import LearnerSettings, ModelSettings, OptimizerSettings
from trainer.algorithms import Algorithm, Tools, make
from trainer.batch import Batch, Row
from trainer.optimisation import Optimizer
from trainer.policy import Policy
from trainer.teacher_prompt import TeacherPrompt

STEPS = 3
RATE = 1e-6
TOKENIZER = Path(__file__).parents[1] / "trainer/tasks/renamed_library/model"
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16, as their makers state it."""

Ids = list[list[int]]
T = TypeVar("T")


def main(who: str, shape: Shape, top_k: int, device: str) -> None:
    with tempfile.TemporaryDirectory(prefix="vpd-bench-") as name:
        model = save_model(shape, Path(name))
        print(measure(who, shape, model, top_k, device).model_dump_json())


def measure(who: str, shape: Shape, model: Path, top_k: int, device: str) -> Measured:
    return trl(shape, model, top_k, device) if who == "trl" else ours(who, shape, model, top_k, device)


def ours(who: str, shape: Shape, model: Path, top_k: int, device: str) -> Measured:
    learner = LearnerSettings(microbatch_tokens=max(64, shape.rows * (shape.informed + shape.tokens)))
    dtype: Any = "float32" if device == "cpu" else "bfloat16"
    policy = Policy(model, ModelSettings(device=device, dtype=dtype), learner, temperature=1.0)
    optimizer = Optimizer(policy, OptimizerSettings(warmup_steps=0), learning_rate=RATE, total_steps=100)
    m_step = DistillSettings(top_k=top_k or None, aggregation="sequence_mean", importance_cap=None)
    live = TeacherSettings(weights="live")
    e_step = EStepSettings(every=CYCLE, trust_region_nats=None)
    settings = VPDSettings(teacher=live, e_step=e_step, m_step=m_step)
    chosen = settings if who == "vpd" else SDPOSettings(teacher=live, m_step=m_step)
    algorithm = make(chosen, Tools(policy, optimizer))
    rows = batch_rows(shape)
    warm_up(policy.network, device)
    memory = Memory(device, policy.network)
    if who == "sdpo":
        seconds, norms = [], []
        for step in range(STEPS):
            metrics, spent = timed(device, lambda step=step: algorithm.train_step(Batch(step, rows)))
            seconds.append(spent)
            norms.append(metrics["m_step/grad_norm"])
        return measured(shape, device, middle(seconds), memory, norms[0], passes=1)
    return cycle(shape, device, algorithm, rows, memory)


def cycle(shape: Shape, device: str, algorithm: Algorithm, rows: list[Row], memory: Memory) -> Measured:
    """Two cycles, of which the second counts: the first makes AdamW's moments."""
    norm, m_seconds, e_seconds, spent_on = 0.0, 0.0, 0.0, list[Spent]()
    for step in range(2 * CYCLE):
        metrics, spent = timed(device, lambda step=step: algorithm.train_step(Batch(step, rows)))
        norm = norm or metrics["m_step/grad_norm"]
        if step >= CYCLE:
            spent_on.append(spent)
            m_seconds += metrics["seconds/m_step"]
            e_seconds += metrics.get("seconds/e_step", 0.0)
    whole = Spent(*(sum(column) for column in zip(*spent_on, strict=True)))
    found = measured(shape, device, whole, memory, norm, passes=CYCLE, e_steps=1)
    return found.model_copy(update={"e_step_share": e_seconds / m_seconds})


def trl(shape: Shape, model: Path, top_k: int, device: str) -> Measured:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL warns on import that its experimental part may change
        from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    support: dict[str, Any] = {"distillation_mode": "full_logits"}
    if top_k != FULL:
        support = {"distillation_mode": "topk_logits", "distillation_topk": top_k, "distillation_add_tail": True}
    arguments = SDPOConfig(
        output_dir=str(model / "out"),
        per_device_train_batch_size=shape.rows,
        num_generations=shape.rows,
        max_completion_length=shape.tokens,
        teacher_model_kind="live",
        distillation_alpha=1.0,
        learning_rate=RATE,
        weight_decay=OptimizerSettings().weight_decay,
        activation_checkpointing=False,
        use_cpu=device == "cpu",
        bf16=device == "cuda",
        report_to=[],
        **support,
    )
    trainer: Any = SDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=arguments,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        train_dataset=Dataset.from_list([{"prompt": "a", "privileged_context": "b"}]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    network, optimizer = trainer.model.train(), trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    prompts, informed, responses = (torch.tensor(ids, device=device) for ids in batch_ids(shape))
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": responses,
        "completion_mask": torch.ones_like(responses),
        "teacher_input_ids": torch.cat([informed, responses], 1),
        "teacher_attention_mask": torch.ones_like(torch.cat([informed, responses], 1)),
        "self_distillation_mask": torch.ones(shape.rows, device=device),
    }

    def step() -> float:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(network, inputs)
        trainer.accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), OptimizerSettings().max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(norm)

    warm_up(network, device)
    memory = Memory(device, network)
    done = [timed(device, step) for _ in range(STEPS)]
    return measured(shape, device, middle([spent for _, spent in done]), memory, done[0][0], passes=1)


def measured(
    shape: Shape, device: str, spent: Spent, memory: Memory, norm: float, *, passes: int, e_steps: int = 0
) -> Measured:
    known = [peak for name, peak in PEAK_TFLOPS.items() if device == "cuda" and name in torch.cuda.get_device_name()]
    tflop = (passes * _m_step_flop(shape) + e_steps * _e_step_flop(shape)) / 1e12
    return Measured(
        seconds=spent.wall,
        cpu_seconds=spent.cpu,
        peak_gib=memory.peak_gib(),
        grad_norm=norm,
        tflop=tflop,
        peak_tflops=known[0] if known else None,
    )


def _m_step_flop(shape: Shape) -> float:
    """Two a weight and token in a forward pass, four in a backward pass; attention's own products left out."""
    body, head = _weights(shape)
    student = 6 * body * shape.rows * (shape.prompt + shape.tokens)
    teacher = 2 * body * shape.rows * (shape.informed + shape.tokens)
    return student + teacher + 8 * head * shape.rows * shape.tokens


def _e_step_flop(shape: Shape) -> float:
    body, head = _weights(shape)
    teacher = 6 * body * shape.rows * (shape.informed + shape.tokens)
    prior = 2 * body * shape.rows * (shape.prompt + shape.tokens)
    return teacher + prior + 8 * head * shape.rows * shape.tokens


def _weights(shape: Shape) -> tuple[float, float]:
    """Weights in the layers' products, and in the head's."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate), shape.hidden * shape.vocabulary


class Spent(NamedTuple):
    """Seconds of the clock, and of this process on all cores."""

    wall: float
    cpu: float


class Memory:
    """How much more memory is taken at most than when this was made."""

    def __init__(self, device: str, network: torch.nn.Module) -> None:
        for parameter in network.parameters():
            parameter.sum()  # what was mapped from a file becomes resident
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is resident now
            self.before = self._resident()

    def peak_gib(self) -> float:
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else self._resident()
        return (peak - self.before) / 2**30

    def _resident(self) -> int:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])


def middle(steps: list[Spent]) -> Spent:
    return Spent(*(statistics.median(column) for column in zip(*steps, strict=True)))


def warm_up(network: torch.nn.Module, device: str) -> None:
    """One token: what libraries load at the first forward pass is no memory of the step."""
    with torch.no_grad():
        network(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device))


def timed(device: str, action: Callable[[], T]) -> tuple[T, Spent]:
    """What the action gives, and what it took."""
    began, cpu = time.perf_counter(), time.process_time()
    result = action()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, Spent(time.perf_counter() - began, time.process_time() - cpu)


def batch_ids(shape: Shape) -> tuple[Ids, Ids, Ids]:
    """Prompts, the teacher's prompts and responses, of random tokens."""
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randint(shape.vocabulary, (shape.rows, length), generator=generator).tolist()
        for length in (shape.prompt, shape.informed, shape.tokens)
    )


def batch_rows(shape: Shape) -> list[Row]:
    """The same as rows: each the only one of its group, half of them successes."""
    rows = []
    for index, (prompt, informed, response) in enumerate(zip(*batch_ids(shape), strict=True)):
        rollout = Rollout(
            text="",
            token_ids=response,
            logprobs=[-1.0] * len(response),
            finish_reason="stop",
            versions=[VersionSpan(version=0, start=0, end=len(response))],
        )
        name, success = f"bench-s000000-g{index:03d}", index % 2 == 0
        trajectory = Trajectory(
            trajectory_id=f"{name}-r00", rollout=rollout, feedback=[], reward=float(success), success=success
        )
        group = RolloutGroup(
            run_id="bench",
            group_id=name,
            step=0,
            index=index,
            policy_version=0,
            task=Task(id="t", kind="math", messages=[Message(role="user", content="?")]),
            prompt_token_ids=prompt,
            trajectories=[trajectory],
        )
        context = TeacherPrompt("", informed)
        rows.append(Row(group, trajectory, context, context))
    return rows


def save_model(shape: Shape, folder: Path) -> Path:
    """A random model with a tokenizer, whose words do not matter here. Made in a process that then ends, so that its
    memory is not in the measurements."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=make_model, args=(shape, folder))
    process.start()
    process.join()
    return folder


def make_model(shape: Shape, folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / file, folder)


if __name__ == "__main__":
    main(sys.argv[1], SHAPES[sys.argv[2]], int(sys.argv[3]), sys.argv[4])
