"""Divergences between the student's and the teacher's next-token distributions, in closed form (ALGORITHM section 3).

All take log-probabilities [tokens, vocabulary] and return one value a token [tokens], in nats, and its slope: the
gradient on the student's logits [tokens, vocabulary]. The teacher has none. No autograd graph is needed or made. What
is as large as the logits is reused in place: to allocate such a tensor takes longer than to compute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vecdot

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(student's, teacher's log-probabilities) -> (values, slopes)."""


def reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher), the divergence of the paper's M-step; slope p (d - KL) with d = log p - log q."""
    p, d = log_p.exp(), _difference(log_p, log_q)
    value = vecdot(p, d)
    return value, d.sub_(value[:, None]).mul_(p)


def forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student); slope p - q."""
    p, q = log_p.exp(), log_q.exp()
    value = vecdot(q, _difference(log_q, log_p))
    return value, p.sub_(q)


def jsd(log_p: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(1 - alpha) KL(p || m) + alpha KL(q || m) with m = (1 - alpha) p + alpha q (SDPO's form).

    Slope p (g - sum p g) with g = (1 - alpha) (log p - log m): what moves m cancels.
    """
    log_m = torch.logaddexp(log_p + math.log(1 - alpha), log_q + math.log(alpha))
    p, g = log_p.exp(), _difference(log_p, log_m).mul_(1 - alpha)
    of_student = vecdot(p, g)
    of_teacher = alpha * vecdot(log_q.exp(), _difference(log_q, log_m))
    return of_student + of_teacher, g.sub_(of_student[:, None]).mul_(p)


def over_top_k(divergence: Divergence, log_p: Tensor, log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`divergence` over the student's k likeliest tokens and one bucket for the rest.

    Both distributions are normalised over the whole vocabulary first. With k at or above the vocabulary's size nothing
    is merged.
    """
    if k >= log_p.shape[-1]:
        return divergence(log_p, log_q)
    support = log_p.topk(k, dim=-1).indices
    buckets = _with_tail(log_p, support)
    value, slope = divergence(buckets, _with_tail(log_q, support))
    # A bucket's log-probability moves with token i's logit by [i is in it] p_i / P - p_i; the slopes sum to 0.
    share = (log_p - buckets[:, -1:]).nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf).exp_()
    return value, share.mul_(slope[:, -1:]).scatter_(-1, support, slope[:, :-1])


def _difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q for a mean under p: 0 where p has no mass."""
    # Infinity times a probability of 0 would be NaN.
    return (log_p - log_q).nan_to_num_(nan=0.0, posinf=math.inf, neginf=0.0)


def _with_tail(log_p: Tensor, support: Tensor) -> Tensor:
    # Summed over the rest, not taken as 1 minus the head: the difference loses all digits where the head is near 1.
    rest = log_p.scatter(-1, support, -math.inf)
    largest = rest.amax(-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)
    tail = rest.sub_(largest).exp_().sum(-1, keepdim=True).log_().add_(largest)
    return torch.cat([log_p.gather(-1, support), tail], dim=-1)
