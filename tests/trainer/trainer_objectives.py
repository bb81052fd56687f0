"""Logits and distributions for the tests of the objectives, and dense float64 twins of the divergences in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

Array = np.ndarray
Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Logits:
    """Student's and teacher's logits, float64 [tokens, vocabulary], of responses with `lengths` tokens [rows]."""

    student: Array
    teacher: Array
    lengths: list[int]

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Both as tensors; the student's has gradients."""
        return torch.tensor(self.student, dtype=dtype).requires_grad_(True), torch.tensor(self.teacher, dtype=dtype)

    def padded(self, tensor: Tensor) -> Tensor:
        """[tokens, ...] -> [rows, longest, ...], right padded with zeros."""
        return torch.nn.utils.rnn.pad_sequence(list(tensor.split(self.lengths)), batch_first=True)

    @property
    def mask(self) -> Tensor:
        """bool [rows, longest]: where a row has a token."""
        return self.padded(torch.ones(sum(self.lengths), dtype=torch.bool))


@st.composite
def logits(draw: st.DrawFn, *, largest_vocabulary: int = 12) -> Logits:
    """Rows of different lengths at some temperature, from nearly equal to nearly disjoint distributions."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    vocabulary = draw(st.integers(2, largest_vocabulary))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0])) / draw(st.sampled_from([0.3, 0.7, 1.0, 2.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    student, teacher = (rng.normal(size=(sum(lengths), vocabulary)) * scale for _ in range(2))
    return Logits(student, teacher, lengths)


def softmax(x: Array) -> Array:
    """Distributions over the last axis; tokens of -inf have probability 0."""
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    """KL(p || q) over the last axis; +inf where q lacks a token of p."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(-1)


def jsd_of(p: Array, q: Array, alpha: float) -> Array:
    """(1 - alpha) KL(p || m) + alpha KL(q || m), m = (1 - alpha) p + alpha q, over the last axis."""
    m = (1 - alpha) * p + alpha * q
    return (1 - alpha) * kl(p, m) + alpha * kl(q, m)


def value_and_gradient(objective: Objective, student: Tensor, teacher: Tensor) -> tuple[Array, Array]:
    """One value a token and the gradient of their sum on the student's logits, as float64."""
    student = student.detach().clone().requires_grad_(True)
    value = objective(student, teacher)
    value.sum().backward()
    assert student.grad is not None
    return value.detach().double().numpy(), student.grad.double().numpy()
