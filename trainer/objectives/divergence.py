"""Divergences between the student's and the teacher's next-token distributions, in closed form (ALGORITHM section 3).

All take the student's probabilities, its log-probabilities and the teacher's, each [tokens, vocabulary], and return one
value a token [tokens], in nats, and its slope: the gradient on the student's logits [tokens, vocabulary]. The teacher
has none. No autograd graph is needed or made. The log-probabilities are overwritten, the student's by the slope: to
allocate a tensor of that size takes longer than to compute it. The probabilities stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vecdot

Divergence = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(p, log p, log q) -> (values, slopes)."""

_GROUP = 128


def reverse_kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher), the divergence of the paper's M-step; slope p (d - KL) with d = log p - log q."""
    d = _less(log_p, log_q)
    value = vecdot(p, d)
    return value, d.sub_(value[:, None]).mul_(p)


def forward_kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student); slope p - q."""
    q = log_q.exp()
    value = vecdot(q, _less(log_q, log_p))
    return value, torch.sub(p, q, out=log_p)


def jsd(p: Tensor, log_p: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(1 - alpha) KL(p || m) + alpha KL(q || m) with m = (1 - alpha) p + alpha q (SDPO's form).

    Slope p (g - sum p g) with g = (1 - alpha) (log p - log m): what moves m cancels.
    """
    log_m, other = log_p + math.log(1 - alpha), log_q + math.log(alpha)
    torch.logaddexp(log_m, other, out=log_m)
    q = torch.exp(log_q, out=other)
    of_teacher = alpha * vecdot(q, _less(log_q, log_m))
    g = _less(log_p, log_m).mul_(1 - alpha)
    of_student = vecdot(p, g)
    return of_student + of_teacher, g.sub_(of_student[:, None]).mul_(p)


def over_top_k(divergence: Divergence, p: Tensor, log_p: Tensor, log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`divergence` over the student's k likeliest tokens and one bucket for the rest.

    Both distributions are normalised over the whole vocabulary first. With k at or above the vocabulary's size nothing
    is merged.
    """
    if k >= log_p.shape[-1]:
        return divergence(p, log_p, log_q)
    support = top_k(log_p, k)
    of_student, rest, total = _with_tail(log_p, support)
    of_teacher, _, _ = _with_tail(log_q, support)
    value, slope = divergence(of_student.exp(), of_student, of_teacher)
    # A bucket's log-probability moves with token i's logit by [i is in it] p_i / P - p_i; the slopes sum to 0.
    by_share = torch.where(total > 0, slope[:, -1:] / total, 0.0)
    return value, rest.mul_(by_share).scatter_(-1, support, slope[:, :-1])


def top_k(values: Tensor, k: int) -> Tensor:
    """Where the k largest of each row are, int64 [tokens, k], in no order; `values` [tokens, vocabulary].

    They stand in the k groups of columns with the largest maxima, and only these are searched.
    """
    tokens, columns = values.shape
    grouped = columns // _GROUP * _GROUP
    if 4 * k * _GROUP > columns:
        return values.topk(k, dim=-1, sorted=False).indices
    best = values[:, :grouped].unflatten(-1, (-1, _GROUP)).amax(-1).topk(k, dim=-1, sorted=False).indices
    inside = torch.arange(_GROUP, device=values.device)
    left_over = torch.arange(grouped, columns, device=values.device).expand(tokens, -1)
    searched = torch.cat([(best[:, :, None] * _GROUP + inside).flatten(1), left_over], dim=-1)
    return searched.gather(-1, values.gather(-1, searched).topk(k, dim=-1, sorted=False).indices)


def _less(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q for a mean under p, in the place of log p: 0 where p has no mass."""
    # Infinity times a probability of 0 would be NaN.
    return log_p.sub_(log_q).nan_to_num_(nan=0.0, posinf=math.inf, neginf=0.0)


def _with_tail(log_p: Tensor, support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the support and of the rest together [tokens, k + 1]; in the place of log p the
    probabilities of the rest, up to a factor, and their sum [tokens, 1]."""
    head = log_p.gather(-1, support)
    # Summed over the rest, not taken as 1 minus the head: the difference loses all digits where the head is near 1.
    rest = log_p.scatter_(-1, support, -math.inf)
    largest = rest.amax(-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)
    total = rest.sub_(largest).exp_().sum(-1, keepdim=True)
    return torch.cat([head, total.log().add_(largest)], dim=-1), rest, total
