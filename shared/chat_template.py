"""What every chat template is given besides the messages: by the trainer and by the inference service alike.

What is not here is a template's own business. Both must render the same ids, on every day.
"""

from __future__ import annotations

from datetime import date
from typing import Any

_DATE = date(2024, 7, 26)
"""The day that Llama 3.1's template names where it is told none."""


def _fixed_date(layout: str) -> str:
    return _DATE.strftime(layout)


ARGUMENTS: dict[str, Any] = {
    "add_generation_prompt": True,
    "enable_thinking": False,
    # Shadows transformers' own: with today's date a prompt would be another tomorrow, and a resumed run as well.
    "strftime_now": _fixed_date,
}
