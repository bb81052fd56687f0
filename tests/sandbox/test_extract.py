from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.extract import CUT_OFF, NO_PROGRAM, extract_program


def test_the_last_python_block_is_the_program() -> None:
    text = "First\n```python\na = 1\n```\nthen\n```python\nb = 2\n```\nand output\n```\n2\n```\n"
    assert extract_program(text).program == "b = 2\n"


def test_without_a_python_tag_the_last_block_is_the_program() -> None:
    assert extract_program("```\na = 1\n```\n```\nb = 2\n```").program == "b = 2\n"


def test_blocks_inside_thinking_do_not_count() -> None:
    thought = "<think>```python\nwrong()\n```</think>"
    assert extract_program(thought).failure == NO_PROGRAM
    assert extract_program(f"{thought}\n```python\nright()\n```").program == "right()\n"


def test_thinking_opened_in_the_prompt_does_not_count() -> None:
    assert extract_program("```python\nwrong()\n```</think>done").failure == NO_PROGRAM


def test_an_unclosed_thought_hides_everything_after_it() -> None:
    assert extract_program("<think>\n```python\nx\n```").failure == NO_PROGRAM


def test_a_response_without_a_block_says_what_to_do() -> None:
    assert extract_program("x = 1").failure == "No program: put your code in one ```python block."


def test_a_last_block_that_is_cut_off_is_a_failure_of_its_own() -> None:
    assert extract_program("```python\na = 1\n```\n```python\nb = ").failure == CUT_OFF


def test_a_longer_fence_may_hold_a_shorter_one() -> None:
    assert extract_program("````python\ns = '''\n```\n'''\n````").program == "s = '''\n```\n'''\n"


@given(st.text())
def test_any_text_gives_a_program_or_a_sentence(text: str) -> None:
    found = extract_program(text)
    assert (found.program is None) == (found.failure in (NO_PROGRAM, CUT_OFF))


@given(st.text(alphabet=st.characters(exclude_characters="`~\r", exclude_categories=["Cs"])))
def test_what_stands_in_a_block_comes_out_of_it(program: str) -> None:
    if "think>" not in program:
        assert extract_program(f"Here:\n```python\n{program}\n```\nDone.").program == f"{program}\n"
