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
_SMALL = 1e-30
"""A sum of probabilities that float32 still has all digits of, and by which a slope can be divided."""


def reverse_kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher), the divergence of the paper's M-step; slope p (d - KL) with d = log p - log q."""
    value, d = _mean_ratio(p, log_p, log_q)
    return value, d.sub_(value[:, None]).mul_(p)


def forward_kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student); slope p - q."""
    q = log_q.exp()
    value, _ = _mean_ratio(q, log_q, log_p)
    return value, torch.sub(p, q, out=log_p)


def jsd(p: Tensor, log_p: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(1 - alpha) KL(p || m) + alpha KL(q || m) with m = (1 - alpha) p + alpha q (SDPO's form).

    Slope p (g - sum p g) with g = (1 - alpha) (log p - log m): what moves m cancels.
    """
    log_m, other = log_p + math.log(1 - alpha), log_q + math.log(alpha)
    torch.logaddexp(log_m, other, out=log_m)
    q = torch.exp(log_q, out=other)
    of_teacher, _ = _mean_ratio(q, log_q, log_m)
    of_student, d = _mean_ratio(p, log_p, log_m)
    value = (1 - alpha) * of_student + alpha * of_teacher
    return value, d.sub_(of_student[:, None]).mul_(p).mul_(1 - alpha)


def over_top_k(divergence: Divergence, p: Tensor, log_p: Tensor, log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`divergence` over the student's k likeliest tokens and one bucket for the rest.

    Both distributions are normalised over the whole vocabulary first. With k at or above the vocabulary's size nothing
    is merged.
    """
    if k >= log_p.shape[-1]:
        return divergence(p, log_p, log_q)
    support = top_k(log_p, k)
    in_support, head_p, head_q = (values.gather(-1, support) for values in (p, log_p, log_q))
    rest, total, log_total = _rest(p, log_p, support)
    of_student = torch.cat([head_p, log_total], dim=-1)
    q = torch.exp(log_q, out=log_p if rest is p else torch.empty_like(p))
    of_teacher = torch.cat([head_q, _rest(q, log_q, support)[2]], dim=-1)
    value, slope = divergence(of_student.exp(), of_student, of_teacher)
    # A bucket's log-probability moves with token i's logit by [i is in it] p_i / P - p_i; the slopes sum to 0.
    by_share = torch.where(total > 0, slope[:, -1:] / total, 0.0)
    slopes = torch.mul(rest, by_share, out=log_p).scatter_(-1, support, slope[:, :-1])
    p.scatter_(-1, support, in_support)
    return value, slopes


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


def _mean_ratio(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """E_p[log p - log q], [tokens], and log p - log q in the place of log p: 0 where p has no mass, if it matters."""
    d = log_p.sub_(log_q)
    if d.device.type == "cpu":  # a GPU would have to wait for the answer
        value = vecdot(p, d)
        if value.isfinite().all():
            return value, d
    d.masked_fill_(p == 0, 0.0)  # 0 times an infinity
    return vecdot(p, d), d


def _rest(p: Tensor, log_p: Tensor, support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The probabilities outside the support up to a factor [tokens, vocabulary], their sum, and the log of the sum
    without the factor, both [tokens, 1]. They stand in the place of p, or of log p where they are too small for that;
    in the support p becomes 0."""
    # Not taken as 1 minus the support's: the difference loses all digits where the support has nearly all.
    p.scatter_(-1, support, 0.0)
    if p.device.type == "cpu":  # a GPU would have to wait for the answer
        total = p.sum(-1, keepdim=True)
        if (total > _SMALL).all():
            return p, total, total.log()
    rest = log_p.scatter_(-1, support, -math.inf)
    largest = rest.amax(-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)
    total = rest.sub_(largest).exp_().sum(-1, keepdim=True)
    return rest, total, total.log().add_(largest)
