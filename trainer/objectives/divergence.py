"""Divergences between the student's and the teacher's next-token distributions (ALGORITHM section 3).

All take logits [tokens, vocabulary] and return one value a token, in nats. Gradients flow through the student alone;
the teacher is detached here, so that no caller can forget it.
"""

from __future__ import annotations

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
    weights = torch.tensor([1 - alpha, alpha], dtype=log_s.dtype, device=log_s.device).log()
    log_m = torch.logsumexp(torch.stack([log_s + weights[0], log_t + weights[1]]), 0)
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
    tail = log_p.scatter(-1, support, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, support), tail], dim=-1)
