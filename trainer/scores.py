"""What a forward pass gives: the hidden states that predict the response tokens, and what is computed from them.

Logits are never built for a whole batch (trainer/head.py). What is wanted of them is log-probabilities of the response
tokens, or a loss whose slope on the logits is a closed form (trainer/objectives/), so that there is no autograd graph
over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from trainer.head import Head, blocks, slices
from trainer.objectives.logprobs import chosen_logprobs, chosen_slope, log_softmax_

OnLogits = Callable[[slice, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(tokens, the student's logits of them, the teacher's if there is one) -> (loss, a scalar; its slope on the student's
logits). Both may be overwritten; the slope may stand in the place of the student's."""


@dataclass(frozen=True)
class Sequences:
    """Prompts and the responses to score after them; one entry a row."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Sequences:
        return Sequences(self.prompts[part], self.responses[part])


@dataclass
class Scores:
    """Hidden states at the positions that predict each response token; rows concatenated.

    `hidden` [tokens, width]; `ids` int64 [tokens], the response tokens; `row` int64 [tokens], their row's index.
    `chunk` is how many tokens have logits at once.
    """

    head: Callable[[Tensor], Tensor]
    hidden: Tensor
    ids: Tensor
    row: Tensor
    rows: int
    chunk: int

    def logits(self, part: slice, room: Tensor | None = None) -> Tensor:
        """float32 logits [tokens of the slice, vocabulary], divided by the sampling temperature; in `room`, if any."""
        if isinstance(self.head, Head):
            return self.head(self.hidden[part], room)
        return self.head(self.hidden[part])

    def room(self) -> Tensor | None:
        """Room for the logits of any chunk, used again for each; None where the head cannot write there."""
        return self.head.room(min(self.chunk, len(self.ids))) if isinstance(self.head, Head) else None

    def per_row(self, values: Tensor) -> Tensor:
        """Sum of token values [tokens] within each row, [rows]."""
        return torch.zeros(self.rows, dtype=values.dtype, device=values.device).index_add(0, self.row, values)

    def logprobs(self) -> Tensor:
        """log pi of each response token, float32 [tokens]; in the backward pass the logits are made once more."""
        if not torch.is_grad_enabled():
            return _logprobs(self)
        if isinstance(self.head, Head) and self.head.weight is not None:
            values: Tensor = _Logprobs.apply(self.hidden, self.head.weight, self)  # type: ignore[no-untyped-call]
            return values
        parts = [
            checkpoint(
                lambda part: chosen_logprobs(self.logits(part).log_softmax(-1), self.ids[part]),
                part,
                use_reentrant=False,
            )
            for part in slices(len(self.ids), self.chunk)
        ]
        return torch.cat(parts) if parts else self.hidden.new_zeros(0)


def loss_on_logits(student: Scores, teacher: Scores | None, on_logits: OnLogits) -> Tensor:
    """Sum of the losses that `on_logits` gives for a few tokens at a time; scalar, with gradients on the student.

    The gradients are taken on the way: no logits are kept, nor made again.
    """
    if isinstance(student.head, Head) and student.head.weight is not None:
        weight = student.head.weight
        loss: Tensor = _Loss.apply(student.hidden, weight, student, teacher, on_logits)  # type: ignore[no-untyped-call]
        return loss

    def chunk(part: slice) -> Tensor:
        logits = student.logits(part)
        value: Tensor = _LossOnChunk.apply(logits, part, teacher, on_logits)  # type: ignore[no-untyped-call]
        return value

    # Here the slope comes when autograd does, and the module is called a second time.
    parts = [checkpoint(chunk, part, use_reentrant=False) for part in slices(len(student.ids), student.chunk)]
    return torch.stack(parts).sum()


class _Loss(torch.autograd.Function):
    """The whole loss as a function of the hidden states and the head's weight."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, student: Scores, teacher: Scores | None, on_logits: OnLogits
    ) -> Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        room = None if teacher is None else teacher.room()

        def overwrite(part: slice, logits: Tensor) -> None:
            loss.add_(_to_slopes(part, logits, teacher, on_logits, room))

        assert isinstance(student.head, Head)
        ctx.gradients = student.head.gradients(hidden, student.chunk, overwrite)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if float(gradient) != 1:
            gradients = tuple(None if g is None else g.mul_(gradient) for g in gradients)
        return (*gradients, None, None, None)


class _LossOnChunk(torch.autograd.Function):
    """The loss on a chunk as a function of its logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, part: slice, teacher: Scores | None, on_logits: OnLogits) -> Tensor:
        slopes = logits.clone()
        loss = _to_slopes(part, slopes, teacher, on_logits, None)
        ctx.save_for_backward(slopes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return gradient * slopes, None, None, None


class _Logprobs(torch.autograd.Function):
    """The log-probabilities as a function of the hidden states and the head's weight."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, scores: Scores) -> Tensor:
        ctx.scores = scores
        ctx.save_for_backward(hidden, weight)
        return _logprobs(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scores: Scores = ctx.scores
        hidden, _ = ctx.saved_tensors  # raises where the weight has been changed since

        def overwrite(part: slice, logits: Tensor) -> None:
            for block in blocks(logits):
                chosen = _within(part, block)
                chosen_slope(log_softmax_(logits[block]).exp_(), scores.ids[chosen], gradient[chosen])

        assert isinstance(scores.head, Head)
        return (*scores.head.gradients(hidden, scores.chunk, overwrite), None)


def _logprobs(scores: Scores) -> Tensor:
    values, room = torch.empty(len(scores.ids), device=scores.hidden.device), scores.room()
    for part in slices(len(scores.ids), scores.chunk):
        logits = scores.logits(part, room)
        for block in blocks(logits):
            chosen = _within(part, block)
            values[chosen] = chosen_logprobs(log_softmax_(logits[block]), scores.ids[chosen])
    return values


def _to_slopes(part: slice, logits: Tensor, teacher: Scores | None, on_logits: OnLogits, room: Tensor | None) -> Tensor:
    """Overwrite a chunk's logits with the slope of the loss on them; the loss. `room` is for the teacher's logits."""
    taught = None if teacher is None else teacher.logits(part, room)
    loss = logits.new_zeros(())
    for block in blocks(logits):
        of_student = logits[block]
        value, slope = on_logits(_within(part, block), of_student, None if taught is None else taught[block])
        if slope is not of_student:
            of_student.copy_(slope)
        loss += value
    return loss


def _within(part: slice, block: slice) -> slice:
    """A slice of a slice."""
    return slice(part.start + block.start, part.start + block.stop)
