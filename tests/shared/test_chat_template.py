"""Templates that name today's date name a fixed one; all others are left alone, to the last space."""

from __future__ import annotations

from datetime import date

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from shared.chat_template import with_fixed_date


def rendered(template: str) -> str:
    return str(render_jinja_template(conversations=[[{"role": "user", "content": "x"}]], chat_template=template)[0][0])


@pytest.mark.parametrize("layout", ["%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%A, %a %d/%m/%y"])
def test_the_date_is_the_same_on_every_day_in_every_layout(layout: str) -> None:
    template = f"{{{{ strftime_now('{layout}') }}}}"
    assert rendered(with_fixed_date(template)) == date(2024, 7, 26).strftime(layout)
    assert rendered(template) != rendered(with_fixed_date(template))


@pytest.mark.parametrize("start", ["", "\n", "  ", "  {% if true %}\n", "\n\n{%- if true %}", "{{ 1 }}\n"])
def test_the_rest_of_the_template_says_what_it_said(start: str) -> None:
    """However it begins: line breaks and spaces around a template's first block are the renderer's to keep or drop."""
    end = "{% endif %}" if "if" in start else ""
    template = f"{start}a {{{{ messages[0].content }}}} {{# strftime_now #}}\n{end}\nb"
    assert rendered(with_fixed_date(template)) == rendered(template)


def test_a_macro_of_the_template_sees_the_fixed_date_and_asks_whether_there_is_one() -> None:
    template = (
        "{% macro day() %}{{ strftime_now('%Y') if strftime_now is defined else 'none' }}{% endmacro %}{{ day() }}"
    )
    assert rendered(with_fixed_date(template)) == "2024"


def test_a_template_that_names_no_date_is_left_alone() -> None:
    assert with_fixed_date(" {{ messages }}\n") == " {{ messages }}\n"
