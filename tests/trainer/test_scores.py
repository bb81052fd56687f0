"""Losses through the head in chunks against one dense computation over all tokens and the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import kl_div
from trainer_algorithms import batches, tools

from shared.algorithm_settings import DistillSettings, TeacherSettings, WeightedGRPOTerm
from trainer import head as head_module
from trainer.algorithms.m_step import MStep
from trainer.algorithms.terms import Tokens
from trainer.head import Head, chunk_tokens
from trainer.policy import Policy
from trainer.scores import Scores
from trainer.teacher import Teacher

NewPolicy = Callable[..., Policy]


class Wrapped(nn.Module):
    """A head that is not a plain linear map, as an adapter's is not."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.linear(hidden)
        return logits


@dataclass(frozen=True)
class Case:
    """Hidden states and a head for `tokens` tokens; every token has weights on D and on log pi, some of them 0."""

    tokens: int
    width: int
    vocabulary: int
    scale: float
    temperature: float
    seed: int
    plain: bool
    live: bool
    bfloat16: bool
    distill: DistillSettings

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, nn.Linear, nn.Linear, Tensor, Tensor]:
        """Student's and teacher's hidden states, their heads, ids, and weights [2, tokens]."""
        generator = torch.Generator().manual_seed(self.seed)
        student, moved = (torch.randn(self.tokens, self.width, generator=generator) for _ in range(2))
        linear, other = nn.Linear(self.width, self.vocabulary, bias=False), nn.Linear(1, 1)
        linear.weight.data = torch.randn(self.vocabulary, self.width, generator=generator) * self.scale
        if not self.live:
            other = nn.Linear(self.width, self.vocabulary, bias=False)
            other.weight.data = linear.weight.data + 0.3 * torch.randn(linear.weight.shape, generator=generator)
        ids = torch.randint(self.vocabulary, (self.tokens,), generator=generator)
        weights = torch.randn(2, self.tokens, generator=generator)
        weights *= torch.rand(2, self.tokens, generator=generator) < 0.7
        teacher = (student + 0.3 * moved).to(dtype)
        heads = linear.to(dtype), linear.to(dtype) if self.live else other.to(dtype)
        return student.to(dtype).requires_grad_(), teacher, *heads, ids, weights.to(dtype)


@st.composite
def cases(draw: st.DrawFn, *, bfloat16: bool = False) -> Case:
    divergence = draw(st.sampled_from(["reverse_kl", "forward_kl", "jsd"]))
    vocabulary = draw(st.integers(2, 40))
    chosen: dict[str, Any] = {"divergence": divergence, "top_k": draw(st.none() | st.integers(1, vocabulary + 2))}
    if divergence == "jsd":
        chosen["jsd_alpha"] = draw(st.floats(0.02, 0.98))
    return Case(
        tokens=draw(st.integers(1, 20)),
        width=draw(st.integers(1, 8)),
        vocabulary=vocabulary,
        scale=draw(st.sampled_from([0.1, 1.0, 2.0])),
        temperature=draw(st.sampled_from([0.6, 1.0, 1.3])),
        seed=draw(st.integers(0, 2**31)),
        plain=draw(st.booleans()),
        live=draw(st.booleans()),
        bfloat16=bfloat16,
        distill=DistillSettings(**chosen),
    )


def chunked(case: Case, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tokens]:
    """Loss, gradients on hidden states and weight, and what was seen of the tokens, as the M-step computes them."""
    hidden, taught, linear, other, ids, weights = case.tensors(torch.float32)
    row = torch.zeros_like(ids)

    def scores(states: Tensor, module: nn.Linear) -> Scores:
        made = Head(module if case.plain else Wrapped(module), case.temperature, bfloat16=case.bfloat16)
        assert (made.weight is not None) is case.plain
        return Scores(made, states, ids, row, 1, chunk)

    def token_loss(part: slice, tokens: Tokens) -> Tensor:
        return weights[0, part] * tokens.divergence + weights[1, part] * tokens.log_pi

    m_step = object.__new__(MStep)
    m_step.distill = case.distill
    with torch.no_grad():
        teacher = scores(taught, other)
    loss, tokens = m_step._loss(scores(hidden, linear), teacher, token_loss)  # type: ignore[arg-type]
    loss.backward()
    assert hidden.grad is not None and linear.weight.grad is not None
    assert case.live or other.weight.grad is None
    return loss.detach(), hidden.grad, linear.weight.grad, tokens


def dense(case: Case) -> tuple[Tensor, Tensor, Tensor, Tokens]:
    """The same by autograd in float64, from all logits at once and PyTorch's own divergence."""
    hidden, taught, linear, other, ids, weights = case.tensors(torch.float64)
    log_p = (linear(hidden) / case.temperature).log_softmax(-1)
    log_q = (other(taught) / case.temperature).log_softmax(-1).detach()
    log_pi, of_teacher = (x.gather(-1, ids[:, None])[:, 0] for x in (log_p, log_q))
    entropy = -(log_p.exp() * log_p).sum(-1)
    if (k := case.distill.top_k) is not None and k < case.vocabulary:
        support = log_p.topk(k).indices
        rest = torch.ones_like(log_p).scatter(-1, support, 0.0).bool()
        log_p, log_q = (
            torch.cat([x.gather(-1, support), x.masked_fill(~rest, -torch.inf).logsumexp(-1, keepdim=True)], -1)
            for x in (log_p, log_q)
        )
    divergence = torch.stack([_dense_divergence(p, q, case.distill) for p, q in zip(log_p, log_q, strict=True)])
    loss = (weights[0] * divergence + weights[1] * log_pi).sum()
    loss.backward()
    assert hidden.grad is not None and linear.weight.grad is not None
    tokens = Tokens(log_pi.detach(), of_teacher, divergence.detach(), entropy.detach())
    return loss.detach(), hidden.grad, linear.weight.grad, tokens


def _dense_divergence(log_p: Tensor, log_q: Tensor, distill: DistillSettings) -> Tensor:
    def kl(a: Tensor, b: Tensor) -> Tensor:
        return kl_div(b, a, log_target=True, reduction="sum")

    if distill.divergence != "jsd":
        return kl(log_p, log_q) if distill.divergence == "reverse_kl" else kl(log_q, log_p)
    a = torch.tensor(distill.jsd_alpha, dtype=log_p.dtype)
    log_m = torch.logaddexp(log_p + (1 - a).log(), log_q + a.log())
    return (1 - a) * kl(log_p, log_m) + a * kl(log_q, log_m)


def assert_near(got: Tensor, wanted: Tensor, relative: float) -> None:
    """Within `relative` of the largest entry, or of half a nat: float32 rounds logits of 20 to a millionth."""
    torch.testing.assert_close(got.double(), wanted, rtol=relative, atol=relative * (0.5 + float(wanted.abs().max())))


@given(cases(), st.integers(1, 25), st.sampled_from([1, 300, head_module.BLOCK_BYTES]))
@settings(deadline=None, max_examples=150)
def test_the_loss_in_chunks_is_the_dense_one_with_its_gradients(case: Case, chunk: int, block: int) -> None:
    with patch.object(head_module, "BLOCK_BYTES", block):
        loss, on_hidden, on_weight, tokens = chunked(case, chunk)
    wanted = dense(case)
    assert_near(loss, wanted[0], 1e-5)
    assert_near(on_hidden, wanted[1], 1e-5)
    assert_near(on_weight, wanted[2], 1e-5)
    for name in ("log_pi", "log_q", "divergence", "entropy"):
        assert_near(getattr(tokens, name), getattr(wanted[3], name), 1e-5)


@given(cases(bfloat16=True), st.integers(1, 25))
@settings(deadline=None, max_examples=50)
def test_products_in_bfloat16_differ_from_the_dense_ones_by_its_rounding(case: Case, chunk: int) -> None:
    wanted = dense(replace(case, scale=0.1))
    got = chunked(replace(case, scale=0.1), chunk)
    for mine, theirs in zip(got[:3], wanted[:3], strict=True):
        assert mine.dtype is torch.float32
        assert_near(mine, theirs, 0.05 * max(1.0, case.width**0.5))


@given(cases(), st.integers(1, 25))
@settings(deadline=None, max_examples=60)
def test_log_probabilities_in_chunks_are_the_dense_ones_with_their_gradients(case: Case, chunk: int) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        hidden, _, linear, _, ids, weights = case.tensors(dtype)
        if dtype is torch.float32:
            made = Head(linear if case.plain else Wrapped(linear), case.temperature, bfloat16=False)
            values = Scores(made, hidden, ids, torch.zeros_like(ids), 1, chunk).logprobs()
        else:
            values = (linear(hidden) / case.temperature).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        # Not linear: what a token weighs is known only when its log-probability is.
        (weights[0] * values**2).sum().backward()
        results.append((values.detach(), hidden.grad, linear.weight.grad))
    for got, wanted in zip(*results, strict=True):
        assert got is not None and wanted is not None
        assert_near(got, wanted, 1e-5)


def test_a_frozen_head_takes_no_gradient_and_the_hidden_states_still_do() -> None:
    linear = nn.Linear(3, 5, bias=False).requires_grad_(False)
    hidden = torch.randn(4, 3, requires_grad=True)
    ids = torch.arange(4)
    Scores(Head(linear, 1.0, bfloat16=False), hidden, ids, ids, 4, 2).logprobs().sum().backward()
    assert linear.weight.grad is None
    assert hidden.grad is not None and (hidden.grad != 0).any()


def test_the_loss_s_gradient_is_scaled_by_what_comes_after_it() -> None:
    case = Case(5, 3, 7, 1.0, 1.0, 0, True, False, False, DistillSettings())
    hidden, taught, linear, other, ids, _ = case.tensors(torch.float32)
    row = torch.zeros_like(ids)
    student, teacher = (
        Scores(Head(m, 1.0, bfloat16=False), h, ids, row, 1, 2) for m, h in ((linear, hidden), (other, taught))
    )
    m_step = object.__new__(MStep)
    m_step.distill = case.distill
    gradients = []
    for factor in (1.0, -3.0):
        loss, _ = m_step._loss(student, teacher, lambda part, tokens: tokens.divergence)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(factor * loss, (hidden, linear.weight)))
    for once, scaled in zip(*gradients, strict=True):
        torch.testing.assert_close(scaled, -3.0 * once)


def test_a_weight_that_was_changed_since_the_forward_pass_is_noticed() -> None:
    linear, ids = nn.Linear(3, 5, bias=False), torch.arange(4)
    values = Scores(Head(linear, 1.0, bfloat16=False), torch.randn(4, 3), ids, ids, 4, 2).logprobs()
    with torch.no_grad():
        linear.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_no_more_tokens_have_logits_at_once_than_a_chunk_holds() -> None:
    linear, ids = nn.Linear(4, 30, bias=False), torch.zeros(50, dtype=torch.long)
    lengths: list[int] = []

    class Counting(Head):
        def __call__(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
            lengths.append(len(hidden))
            return super().__call__(hidden, room)

    made = Counting(linear, 1.0, bfloat16=False)
    student = Scores(made, torch.randn(50, 4, requires_grad=True), ids, ids, 1, 8)
    m_step = object.__new__(MStep)
    m_step.distill = None
    loss, _ = m_step._loss(student, None, lambda part, tokens: tokens.log_pi)  # type: ignore[arg-type]
    loss.backward()
    assert (max(lengths), sum(lengths)) == (8, 50)  # the backward pass makes none


@pytest.mark.parametrize(
    ("vocabulary", "device", "size"),
    [(30, "cpu", 1024), (151_936, "cpu", 129), (151_936, "cuda", 206), (10**9, "cpu", 1)],
)
def test_a_chunk_has_the_tokens_of_the_settings_or_its_even_share_of_as_many_as_the_bytes_hold(
    vocabulary: int, device: str, size: int
) -> None:
    assert chunk_tokens(vocabulary, 1024, 1030, torch.device(device)) == size


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_a_chunk_has_a_token_at_least(tokens: int) -> None:
    assert 1 <= chunk_tokens(151_936, 1024, tokens, torch.device("cpu")) <= max(1, tokens)


@pytest.mark.parametrize("hook", ["forward", "forward_pre"])
def test_a_head_with_a_hook_is_called_as_a_module(hook: str) -> None:
    linear = nn.Linear(3, 5, bias=False)
    getattr(linear, f"register_{hook}_hook")(lambda *_: None)
    assert Head(linear, 1.0, bfloat16=False).weight is None
    assert Head(nn.Linear(3, 5), 1.0, bfloat16=False).weight is None


def test_a_step_through_a_wrapped_head_has_the_gradient_of_a_plain_one(new_policy: NewPolicy) -> None:
    settings, term = DistillSettings(divergence="jsd", top_k=9), WeightedGRPOTerm()
    made = [tools(new_policy(microbatch_tokens=64, chunk_tokens=16), max_grad_norm=1e6) for _ in range(2)]
    seen: list[dict[str, Tensor]] = [{}, {}]
    for each, kept in zip(made, seen, strict=True):
        network: Any = each.policy.network
        network.lm_head.register_forward_hook(lambda *_: None) if each is made[1] else None
        each.optimizer.adamw.register_step_pre_hook(
            lambda *_, kept=kept, network=network: kept.update(
                {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
            )
        )
        (batch,) = batches(each.policy, 1)
        teacher = Teacher(TeacherSettings(), each.policy)
        MStep(each, settings, teacher=teacher, distill=settings, grpo=term)(batch)
    assert seen[0].keys() == seen[1].keys() != set()
    for name, gradient in seen[0].items():
        torch.testing.assert_close(seen[1][name], gradient, rtol=1e-4, atol=1e-7)
