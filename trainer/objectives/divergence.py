"""Divergences between the student's and the teacher's next-token distributions (ALGORITHM section 3).

All take logits [tokens, vocabulary] and return one value a token, in nats. Gradients flow through the student alone;
the teacher is detached here, so that no caller can forget it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(student || teacher), [tokens]: the divergence of the paper's M-step."""
    return _kl(log_softmax(student_logits, -1), log_softmax(teacher_logits.detach(), -1))


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student), [tokens]."""
    return _kl(log_softmax(teacher_logits.detach(), -1), log_softmax(student_logits, -1))


def jsd(student_logits: Tensor, teacher_logits: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) KL(S || M) + alpha KL(T || M) with M = (1 - alpha) S + alpha T, [tokens] (SDPO's form)."""
    log_s = log_softmax(student_logits, -1)
    log_t = log_softmax(teacher_logits.detach(), -1)
    # A token that both rule out would make the mixture's gradient NaN: infinity minus infinity.
    lowest = torch.finfo(log_s.dtype).min
    parts = (log_s + math.log(1 - alpha), log_t + math.log(alpha))
    log_m = torch.logaddexp(parts[0].clamp(min=lowest), parts[1].clamp(min=lowest))
    return (1 - alpha) * _kl(log_s, log_m) + alpha * _kl(log_t, log_m)


def top_k_with_tail(student_logits: Tensor, teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Reduce both to the student's k likeliest tokens and one bucket for the rest: log-probabilities [tokens, k + 1].

    Each is normalised over the whole vocabulary first. The results are valid logits for the functions above. With k at
    or above the vocabulary's size nothing is reduced.
    """
    log_s, log_t = log_softmax(student_logits, -1), log_softmax(teacher_logits, -1)
    if k >= log_s.shape[-1]:
        return log_s, log_t
    support = log_s.detach().topk(k, dim=-1).indices
    return _with_tail(log_s, support), _with_tail(log_t, support)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p (log p - log q); where p is 0 the term is 0, also if a logit is -inf."""
    # Masked before the product: infinity times 0 would make the gradient NaN.
    difference = (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)
    return (log_p.exp() * difference).sum(-1)


def _with_tail(log_p: Tensor, support: Tensor) -> Tensor:
    # Summed over the rest, not taken as 1 minus the head: the difference loses all digits where the head is near 1.
    # The lowest number stands for the head, not -inf: over -inf alone the sum's gradient would be NaN.
    lowest = torch.finfo(log_p.dtype).min
    tail = log_p.scatter(-1, support, lowest).logsumexp(-1, keepdim=True)
    tail = tail.masked_fill(tail <= lowest / 2, float("-inf"))
    return torch.cat([log_p.gather(-1, support), tail], dim=-1)
