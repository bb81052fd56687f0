from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.extract import CUT_OFF, NO_PROGRAM, extract_program


def test_the_last_python_block_is_the_program() -> None:
    text = "First\n```python\na = 1\n```\nthen\n```python\nb = 2\n```\nand output\n```\n2\n```\n"
    assert extract_program(text).program == "b = 2\n"


def test_without_a_python_tag_the_last_block_is_the_program() -> None:
    assert extract_program("```\na = 1\n```\n```\nb = 2\n```").program == "b = 2\n"


@pytest.mark.parametrize(
    "info", ["python", "Python3", "py", " python title='a'", "{.python}", "python{1,2}", "py3", "pypy3", "python3.11"]
)
def test_every_way_to_say_python_is_preferred_to_another_block(info: str) -> None:
    assert extract_program(f"```{info}\na = 1\n```\n```text\nb\n```").program == "a = 1\n"


@pytest.mark.parametrize("info", ["", "pytb", "pycon", "text", "console"])
def test_what_only_looks_like_python_is_not_preferred(info: str) -> None:
    assert extract_program(f"```{info}\na = 1\n```\n```\nb = 2\n```").program == "b = 2\n"


def test_blocks_inside_thinking_do_not_count() -> None:
    thought = "<think>```python\nwrong()\n```</think>"
    assert extract_program(thought).failure == NO_PROGRAM
    assert extract_program(f"{thought}\n```python\nright()\n```").program == "right()\n"


def test_thinking_opened_in_the_prompt_does_not_count() -> None:
    assert extract_program("```python\nwrong()\n```</think>done").failure == NO_PROGRAM


def test_an_unclosed_thought_hides_everything_after_it() -> None:
    assert extract_program("<think>\n```python\nx\n```").failure == NO_PROGRAM


@pytest.mark.parametrize("text", ["x = 1", "def solve(x):\n    return x\n", "`x = 1`", "``\nx\n``", ""])
def test_a_program_without_a_block_is_a_failure_that_says_what_to_do(text: str) -> None:
    assert extract_program(text).failure == "No program: put your code in one ```python block."


@pytest.mark.parametrize("end", ["b = ", "b = 2\n``", "b = 2\n~~~", "b = 2\n``` done", "b = 2\n    ```\nc", ""])
def test_a_last_block_that_is_cut_off_is_a_failure_of_its_own(end: str) -> None:
    assert extract_program(f"```python\na = 1\n```\n```python\n{end}").failure == CUT_OFF


def test_a_longer_fence_may_hold_a_shorter_one() -> None:
    assert extract_program("````python\ns = '''\n```\n'''\n````").program == "s = '''\n```\n'''\n"


def test_tildes_and_backticks_do_not_close_each_other() -> None:
    assert extract_program("~~~python\ns = '''\n```\n'''\n~~~~").program == "s = '''\n```\n'''\n"


def test_a_fence_in_an_indented_docstring_ends_nothing() -> None:
    program = 'def f():\n    """For example:\n    ```python\n    f()\n    ```\n    """\n    return 1\n'
    assert extract_program(f"```python\n{program}```").program == program


def test_a_fence_at_the_very_end_closes_wherever_it_stands() -> None:
    assert extract_program("```python\nif a:\n    b\n    ```\n\n").program == "if a:\n    b\n"


def test_a_block_in_a_list_loses_the_indentation_of_its_fence() -> None:
    text = "1. So:\n    ```python\n    def f():\n        return 1\n\n    ```\n"
    assert extract_program(text).program == "def f():\n    return 1\n\n"
    assert extract_program(text.replace("    ", "\t")).program == "def f():\n\treturn 1\n\n"


def test_lines_that_end_as_on_windows_are_lines() -> None:
    assert extract_program("```python\r\na = 1\r\nb = 2\r\n```\r\n").program == "a = 1\nb = 2\n"


def test_tabs_in_a_program_stay() -> None:
    assert extract_program("```python\nif x:\n\ty\n```").program == "if x:\n\ty\n"


@given(st.text(alphabet=st.sampled_from("`~ \t\r\nab<>think/")))
def test_any_text_gives_a_program_or_a_sentence(text: str) -> None:
    found = extract_program(text)
    assert (found.program is None) == (found.failure in (NO_PROGRAM, CUT_OFF))


@given(st.text(alphabet=st.characters(exclude_characters="`~\r", exclude_categories=["Cs"])))
def test_what_stands_in_a_block_comes_out_of_it(program: str) -> None:
    if "think>" not in program:
        assert extract_program(f"Here:\n```python\n{program}\n```\nDone.").program == f"{program}\n"
