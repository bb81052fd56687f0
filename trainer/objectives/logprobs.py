"""What is read off next-token log-probabilities [tokens, vocabulary], and its slope on the logits in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vecdot


def log_softmax_(logits: Tensor) -> Tensor:
    """log p in the place of logits [tokens, vocabulary]."""
    if logits.device.type == "cpu":
        return torch.log_softmax(logits, -1, out=logits)
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def chosen_logprobs(log_p: Tensor, ids: Tensor) -> Tensor:
    """log pi(y), [tokens], of the sampled tokens y: `ids` int64 [tokens]."""
    return log_p.gather(-1, ids[:, None])[:, 0]


def chosen_slope(p: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
    """The gradient of sum scale log pi(y) on the logits, scale (onehot(y) - p), [tokens, vocabulary].

    `p` [tokens, vocabulary], probabilities, is overwritten; `scale` [tokens].
    """
    return p.mul_(-scale[:, None]).scatter_add_(-1, ids[:, None], scale[:, None])


def entropy(p: Tensor, log_p: Tensor) -> Tensor:
    """-sum p log p in nats, [tokens]; a token of probability 0 adds nothing."""
    if p.device.type == "cpu":  # a GPU would have to wait for the answer
        value: Tensor = -vecdot(p, log_p)
        if value.isfinite().all():
            return value
    mean: Tensor = vecdot(p, log_p.masked_fill(p == 0, 0.0))
    return -mean
