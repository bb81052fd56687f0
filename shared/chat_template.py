"""What every chat template is rendered with, by the trainer and by the inference service alike.

Both must render the same ids, on every day. All else is a template's own business.
"""

from __future__ import annotations

from typing import Any

ARGUMENTS: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": False}

_DATE = {"%a": "Fri", "%A": "Friday", "%b": "Jul", "%B": "July", "%d": "26", "%m": "07", "%y": "24", "%Y": "2024"}
"""The day that Llama 3.1's template names where it is told none."""


def with_fixed_date(template: str) -> str:
    """The template; where it would name today's date (`strftime_now`), one that names 26 July 2024.

    With today's date a prompt would be another tomorrow, and what is replayed would not be what was trained on.
    """
    if "strftime_now" not in template:
        return template
    fixed = "".join(f" | replace('{code}', '{text}')" for code, text in _DATE.items())
    # The line break is the block's own, so that the template still starts at the start of a line.
    return f"{{% macro strftime_now(layout) %}}{{{{ layout{fixed} }}}}{{% endmacro %}}\n{template}"
