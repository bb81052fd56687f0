"""What an architecture does to the output head's product before the softmax, read off its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitShape:
    """logits = cap * tanh(scale * product / cap), or scale * product where there is no cap.

    Gemma 2 and 3 cap (`final_logit_softcapping`), Cohere multiplies (`logit_scale`), Granite divides
    (`logits_scaling`); most models do nothing.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitShape:
        """That of a text model's configuration."""
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, product: Tensor) -> Tensor:
        """Of the same shape and type."""
        scaled = product if self.scale == 1.0 else product * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


AS_IS = LogitShape()
"""Of an architecture that does nothing to the product."""
