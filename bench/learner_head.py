"""Time and memory of the M-step's loss on the logits of one long response, beside one dense computation by autograd.

    .venv/bin/python -m bench.learner_head [TOKENS [HIDDEN [VOCABULARY]]]      # default: 8192 1024 151936
    .venv/bin/python -m bench.learner_head dense TOKENS HIDDEN VOCABULARY

Reverse KL of a student to a teacher with the same head, gradients on the hidden states and on the head's weight. `peak`
is the largest resident memory above that with weights and hidden states; the weight's gradient is in it.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from bench.learner_side import Memory, Spent, timed
from trainer.head import Head, chunk_tokens
from trainer.objectives.divergence import reverse_kl
from trainer.objectives.logprobs import log_softmax_
from trainer.scores import Scores, loss_on_logits


def main(words: list[str]) -> None:
    dense = words[:1] == ["dense"]
    tokens, hidden, vocabulary = [int(word) for word in words[dense:]] or [8192, 1024, 151_936]
    print(("dense" if dense else "chunked") + f", {tokens} tokens, hidden {hidden}, vocabulary {vocabulary}:", end=" ")
    spent, gib = measure(tokens, hidden, vocabulary, dense=dense)
    print(f"{spent.wall:.1f} s, CPU {spent.cpu:.1f} s, peak {gib:.2f} GiB")


def measure(tokens: int, hidden: int, vocabulary: int, *, dense: bool) -> tuple[Spent, float]:
    """Time, and GiB above weights and hidden states."""
    torch.manual_seed(0)
    linear = nn.Linear(hidden, vocabulary, bias=False)
    student = torch.randn(tokens, hidden, requires_grad=True)
    teacher = student.detach() + 0.1 * torch.randn(tokens, hidden)
    memory = Memory("cpu", linear)
    loss = _dense if dense else _chunked
    _, spent = timed("cpu", lambda: loss(linear, student, teacher).backward())
    return spent, memory.peak_gib()


def _chunked(linear: nn.Linear, student: Tensor, teacher: Tensor) -> Tensor:
    def on_logits(part: slice, logits: Tensor, taught: Tensor | None) -> tuple[Tensor, Tensor]:
        assert taught is not None
        log_p = log_softmax_(logits)
        value, slope = reverse_kl(log_p.exp(), log_p, log_softmax_(taught))
        return value.sum() / len(student), slope.div_(len(student))

    head, ids = Head(linear, 1.0, bfloat16=False), torch.zeros(len(student), dtype=torch.long)
    chunk = chunk_tokens(linear.out_features, 1024, len(student), student.device)
    both = [Scores(head, hidden, ids, ids, 1, chunk) for hidden in (student, teacher)]
    return loss_on_logits(both[0], both[1], on_logits)


def _dense(linear: nn.Linear, student: Tensor, teacher: Tensor) -> Tensor:
    log_p = linear(student).log_softmax(-1)
    with torch.no_grad():
        log_q = linear(teacher).log_softmax(-1)
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum() / len(student)


if __name__ == "__main__":
    main(sys.argv[1:])
