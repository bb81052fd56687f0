"""What programs come to, in every tier: right ones pass, wrong ones get the verdict they earned."""

# ruff: noqa: E501
from __future__ import annotations

import itertools
import textwrap
import time

import pytest

from sandbox import confined
from sandbox.confined import DeadlinePassed, Limits, SandboxFailure
from sandbox.diagnosis import describe
from sandbox.isolation import Isolation
from sandbox.judge import Defaults, _Attempt, judge
from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import TestReport, Verdict
from shared.errors import DataError
from tests.sandbox.programs import DEFAULTS, RENAMED_LIBRARY, call_task, first, run, stdin_task

RIGHT_READERS = [
    "a, b = map(int, input().split())\nprint(a + b)\nprint(input())",
    "import sys\nx = sys.stdin.read().split()\nprint(int(x[0]) + int(x[1]), x[2], sep='\\n')",
    "import sys\nl = [l for l in sys.stdin]\nprint(sum(map(int, l[0].split())))\nprint(l[1])",
    "import sys\nr = sys.stdin.buffer.readline\nsys.stdout.buffer.write(b'%d\\n' % sum(map(int, r().split())) + r())",
    "import os\nl = open(0).read().split()\nos.write(1, f'{int(l[0]) + int(l[1])}\\n{l[2]}'.encode())",
    "def main():\n    global a\n    a = sum(map(int, input().split()))\nif __name__ == '__main__':\n    main()\nprint(a, input(), sep='\\n')",
    "import threading\ndef f():\n    print(sum(map(int, input().split())))\n    print(input())\nthreading.Thread(target=f).start()",
    "print(sum(map(int, input().split())))\nprint(input())\nraise SystemExit",
    "import atexit\natexit.register(lambda: print(input()))\nprint(sum(map(int, input().split())))",
    "print(sum(map(int, open('/dev/stdin').readline().split())))\nprint('end')",
]


@pytest.mark.parametrize("program", RIGHT_READERS)
def test_a_right_program_passes_however_it_reads_and_writes(quick: Isolation, program: str) -> None:
    assert first(quick, program, "3 4\nend\n", "7\nend").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("print(1)", Verdict.WRONG_ANSWER),
        ("", Verdict.WRONG_ANSWER),
        ("print(7)\nprint(8)", Verdict.WRONG_ANSWER),
        ("import os\nos._exit(0)", Verdict.WRONG_ANSWER),
        ("1 / 0", Verdict.RUNTIME_ERROR),
        ("print(7)\nraise SystemExit(3)", Verdict.RUNTIME_ERROR),
        ("print(7, flush=True)\nimport os\nos._exit(4)", Verdict.RUNTIME_ERROR),
        ("import os\nos.kill(os.getpid(), 11)", Verdict.RUNTIME_ERROR),
        ("def f(): f()\nf()", Verdict.RUNTIME_ERROR),
        ("while True: pass", Verdict.TIME_LIMIT),
        ("try:\n    while True: pass\nexcept BaseException:\n    print(7)", Verdict.TIME_LIMIT),
        ("import signal\nfor s in set(signal.Signals) - {9, 19}:\n    signal.signal(s, signal.SIG_IGN)\nwhile True: pass", Verdict.TIME_LIMIT),
        ("print(len(bytearray(10**9)))", Verdict.MEMORY_LIMIT),
        ("x = []\nwhile True: x.append(bytearray(2**20))", Verdict.MEMORY_LIMIT),
        ("while True: print('x' * 10000)", Verdict.OUTPUT_LIMIT),
        ("if True print(7)", Verdict.COMPILE_ERROR),
        ("print(7)\0", Verdict.COMPILE_ERROR),
        ("(" * 500, Verdict.COMPILE_ERROR),
        ("-" * 10**6 + "1", Verdict.COMPILE_ERROR),
    ],
)  # fmt: skip
def test_every_way_to_fail_has_its_verdict(quick: Isolation, program: str, verdict: Verdict) -> None:
    task = stdin_task(("", "7"), time_limit_s=0.3)
    report = judge(quick, task, program, Defaults(memory_limit_mb=128, output_bytes=2**18))
    assert report.tests[0].verdict is verdict
    assert report.reward == 0.0
    assert describe(report)


def test_an_idle_program_meets_the_time_limit(quick: Isolation) -> None:
    assert first(quick, "import time\ntime.sleep(600)", time_limit_s=0.05).verdict is Verdict.TIME_LIMIT


def test_a_megabyte_of_right_output_passes(quick: Isolation) -> None:
    assert first(quick, "print('x' * 2**20)", "", "x" * 2**20).verdict is Verdict.PASSED


def test_a_megabyte_of_input_arrives(quick: Isolation) -> None:
    assert first(quick, "print(len(input()))", "x" * 2**20, str(2**20)).verdict is Verdict.PASSED


def test_bytes_that_are_no_text_are_a_wrong_answer(quick: Isolation) -> None:
    assert first(quick, "import os\nos.write(1, b'\\xff\\x00')", "", "7").verdict is Verdict.WRONG_ANSWER


def test_judging_stops_at_the_first_failure_where_the_task_says_so(isolation: Isolation) -> None:
    task = call_task(*[(str(i), str(i + 1)) for i in range(5)], max_failures=1)
    report = run(isolation, task, "def solve(x):\n    return x + 1 if x < 2 else 0\n")
    wanted = [Verdict.PASSED] * 2 + [Verdict.WRONG_ANSWER] + [Verdict.SKIPPED] * 2
    assert [test.verdict for test in report.tests] == wanted
    assert describe(report) == "Wrong answer: passed 2 of 5 tests.\nInput: 2\nOutput: 0\nExpected: 3"


def test_a_function_that_passes_every_test_is_rewarded(isolation: Isolation) -> None:
    task = call_task(('[1, 2]\n"x"', '{"x": [1, 2]}'), ('[]\n"y"', '{"y": []}'))
    report = run(isolation, task, "def solve(a, b):\n    return {b: a}\n")
    assert (report.reward, describe(report)) == (1.0, "Passed all 2 tests.")


def test_a_method_of_class_solution_is_called_and_knows_the_usual_names(quick: Isolation) -> None:
    program = "class Solution:\n    def solve(self, a: List[int]) -> Optional[int]:\n        return gcd(*a)\n"
    assert run(quick, call_task(("[4, 6]", "2")), program).success


def test_class_solution_in_a_comment_is_no_class(quick: Isolation) -> None:
    assert run(quick, call_task(("1", "1")), "# class Solution:\ndef solve(x): return x\n").success


def test_the_main_guard_of_a_function_task_does_not_run(quick: Isolation) -> None:
    assert run(quick, call_task(("1", "1")), "def solve(x): return x\nif __name__ == '__main__': 1 / 0\n").success


def test_what_a_function_prints_does_not_spoil_its_value(quick: Isolation) -> None:
    assert run(quick, call_task(("1", "1")), "def solve(x):\n    print('[2]')\n    return x\n").success


def test_every_test_starts_from_the_programs_first_state(quick: Isolation) -> None:
    program = "seen = []\ndef solve(x):\n    seen.append(x)\n    open('f', 'a').write('x')\n    return len(seen) + len(open('f').read())\n"
    assert run(quick, call_task(("1", "2"), ("2", "2"), ("3", "2")), program).success


def test_a_helpful_error_of_a_support_library_names_the_candidates_line(isolation: Isolation) -> None:
    task = call_task(("3", "6"), files={"lib.py": RENAMED_LIBRARY})
    program = "import lib\n\ndef solve(x):\n    x = lib.add(x, 3)\n    return x\n"
    assert describe(run(isolation, task, program)) == (
        "Runtime error: passed 0 of 1 tests.\n"
        "AttributeError: module 'lib' has no attribute 'add', it was renamed to 'plus'\n"
        "Line 4 in solve:     x = lib.add(x, 3)\n"
        "Input: 3"
    )
    assert run(isolation, task, program.replace("add", "plus")).success


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("def other(x): return x", "NameError: the program defines no function 'solve'"),
        ("def solve(): return 1", "TypeError: solve() takes 0 positional arguments but 1 was given"),
        ("def solve(x): return {1, 2}", "TypeError: returned a value of type set, which JSON does not have"),
        ("import os\ndef solve(x): os._exit(0)", "SystemExit: the program ended before it returned a value"),
        ("import sys\ndef solve(x): sys.exit(0)", "SystemExit: 0"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_a_function_that_gives_no_value_is_told_why(quick: Isolation, program: str, error: str) -> None:
    assert describe(run(quick, call_task(("1", "1")), program)).splitlines()[1] == error


def test_the_same_program_is_described_in_the_same_words(isolation: Isolation) -> None:
    program = "print({c for c in 'abcdefgh'}, object(), hash('x'))"
    task = stdin_task(("", "7"))
    assert len({describe(run(isolation, task, program)) for _ in range(4)}) == 1


CHECK = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate([2]) == (3,), 'tuple'\n    for i in range(3):\n        assert candidate(i) == i + 1\n"


def test_assertions_are_counted_and_the_failing_one_is_shown(isolation: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": CHECK, "entry_point": "f"})
    right = "def f(x):\n    return (x[0] + 1,) if isinstance(x, list) else x + 1\n"
    assert run(isolation, task, right).success
    assert describe(run(isolation, task, "def f(x): return 2")) == (
        "Wrong answer: passed 1 of 2 tests.\nInput: [2]\nOutput: 2\nExpected: assert candidate([2]) == (3,), 'tuple'"
    )
    assert describe(run(isolation, task, "def f(x): return x + 1")) == (
        'Runtime error: passed 1 of 2 tests.\nTypeError: can only concatenate list (not "int") to list\n'
        "Line 1 in f: def f(x): return x + 1\nInput: [2]"
    )


def test_bare_assertions_and_expected_exceptions_work(quick: Isolation) -> None:
    tests = "assert f(4) == 2\ntry:\n    f(0)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'zero'\n"
    task = parse_task("code.assert", {"test_code": tests, "entry_point": "f"})
    program = "def f(x):\n    if not x:\n        raise ValueError('zero')\n    return x // 2\n"
    assert run(quick, task, program).success
    assert not run(quick, task, "def f(x): return x // 2").success


def test_assertions_see_limits_as_limits(quick: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": "assert f(1)", "entry_point": "f", "time_limit_s": 0.2})
    assert run(quick, task, "def f(x):\n    while x: pass\n").tests[0].verdict is Verdict.TIME_LIMIT


def test_broken_test_code_is_the_tasks_fault(quick: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": "assert f(", "entry_point": "f"})
    with pytest.raises(DataError, match=r"reference\.test_code: SyntaxError"):
        run(quick, task, "def f(x): return x")


def test_a_broken_support_file_is_the_tasks_fault(quick: Isolation) -> None:
    with pytest.raises(DataError, match=r"reference\.files do not compile: SyntaxError"):
        run(quick, call_task(("1", "1"), files={"lib.py": "def"}), "def solve(x): return x")


def test_an_error_in_a_comprehension_names_the_function_around_it(quick: Isolation) -> None:
    report = run(quick, call_task(("1", "1")), "def solve(x):\n    return [1 // (i - 1) for i in range(3)]\n")
    assert "Line 2 in solve:     return [1 // (i - 1) for i in range(3)]" in describe(report)


def test_a_small_program_that_compiles_too_big_is_a_compile_error(isolation: Isolation) -> None:
    assert described_as_compile_error(isolation, nested_finally(19)) == (
        "MemoryError: too big or too deeply nested to compile"
    )


def test_a_program_that_compiles_too_slowly_is_a_compile_error(isolation: Isolation) -> None:
    body = textwrap.indent(nested_finally(11), " ")
    program = "".join(f"def f{i}():\n{body}" for i in range(3000))
    assert described_as_compile_error(isolation, program) == "TimeoutError: takes too long to compile"


def test_a_compiler_that_does_not_come_back_twice_is_a_compile_error(
    quick: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_s = 0.05
    monkeypatch.setattr(confined, "GRACE_S", wait_s - Limits(DEFAULTS.time_limit_s, 0).wall_s)
    report = judge(quick, stdin_task(("", "")), "x = [" + "1," * 200_000 + "]", DEFAULTS)
    assert describe(report) == "Compile error: no test was run.\nSystemError: brings down the compiler"


def test_compiling_slow_test_code_is_the_tasks_fault(quick: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": nested_finally(19), "entry_point": "f"})
    with pytest.raises(DataError, match=r"reference\.test_code: MemoryError"):
        run(quick, task, "def f(x): return x")


def nested_finally(depth: int) -> str:
    """A few lines whose code doubles with each level."""
    levels = [f"{' ' * i}try:\n{' ' * i} pass\n{' ' * i}finally:\n" for i in range(depth)]
    return "".join(levels) + " " * depth + "pass\n"


def described_as_compile_error(isolation: Isolation, program: str) -> str:
    """The sentence that says why; found at the first try."""
    report = _Attempt(isolation, stdin_task(("", ""), time_limit_s=0.1), program, DEFAULTS, None, None).run()
    assert report.reward == 0.0
    heading, _, why = describe(report).partition("\n")
    assert heading == "Compile error: no test was run."
    return why


def test_a_deadline_ends_the_run(quick: Isolation) -> None:
    with pytest.raises(DeadlinePassed):
        judge(quick, stdin_task(("", "")), "while True: pass", DEFAULTS, deadline_at=time.monotonic() + 0.3)


def test_a_closed_sandbox_is_a_failure_of_ours_and_no_verdict() -> None:
    isolation = Isolation("unsafe")
    isolation.close()
    with pytest.raises(SandboxFailure):
        run(isolation, stdin_task(("", "")), "print(1)")


def test_the_unsafe_tier_judges_too() -> None:
    isolation = Isolation("unsafe")
    try:
        assert first(isolation, "print(input())", "7", "7").verdict is Verdict.PASSED
        assert first(isolation, "while True: pass", time_limit_s=0.2).verdict is Verdict.TIME_LIMIT
    finally:
        isolation.close()


def test_judging_goes_on_for_the_feedback_until_three_tests_have_failed(isolation: Isolation) -> None:
    task = call_task(*[(str(i), str(i + 1)) for i in range(7)])
    report = run(isolation, task, "def solve(x):\n    return x + 1 if x in (0, 2) else 0\n")
    assert [test.verdict for test in report.tests] == [
        Verdict.PASSED,
        Verdict.WRONG_ANSWER,
        Verdict.PASSED,
        *[Verdict.WRONG_ANSWER] * 2,
        *[Verdict.SKIPPED] * 2,
    ]
    assert describe(report).splitlines()[0] == "Wrong answer: passed 2 of 7 tests, failed 3, not run 2."


def test_loops_do_not_cost_as_many_time_limits_as_there_are_tests(quick: Isolation) -> None:
    task = call_task(*[(str(i), "0") for i in range(6)], time_limit_s=0.2, max_failures=6)
    report = run(quick, task, "def solve(x):\n    while True: pass\n")
    assert [test.verdict for test in report.tests] == [Verdict.TIME_LIMIT] * 2 + [Verdict.SKIPPED] * 4


def test_short_tests_after_a_loop_are_run(quick: Isolation) -> None:
    task = call_task(*[(str(i), str(i)) for i in range(6)], time_limit_s=0.3)
    report = run(quick, task, "def solve(x):\n    while not x: pass\n    return x if x != 3 else 4\n")
    assert (report.passed, report.skipped) == (4, 0)
    assert describe(report) == (
        "Time limit exceeded: passed 4 of 6 tests, failed 2, not run 0.\n"
        "The limit is 0.3 CPU seconds for a test.\n"
        "Stopped in the loop of line 2 in solve:     while not x: pass\n"
        "Input: 0\n"
        "Another failure: Wrong answer.\n"
        "Input: 3\n"
        "Output: 4\n"
        "Expected: 3"
    )


def test_the_fraction_counts_all_tests_whatever_their_order(isolation: Isolation) -> None:
    tests = [(str(i), str(i)) for i in range(8)]
    program = "def solve(x):\n    if x == 1: raise ValueError\n    return x if x < 6 else -1\n"
    for ordered in (tests, tests[::-1]):
        report = run(isolation, call_task(*ordered, reward="fraction", max_failures=1), program)
        assert (report.reward, report.success, report.skipped) == (5 / 8, False, 0)
    assert run(isolation, call_task(*tests, reward="fraction"), "def solve(x): return x").reward == 1.0


def test_the_order_of_tests_does_not_matter_for_the_reward(quick: Isolation) -> None:
    tests = [(str(i), str(i)) for i in range(5)]
    for program in ("def solve(x): return x if x != 2 else 0", "def solve(x): return x"):
        rewards = {run(quick, call_task(*one), program).reward for one in itertools.permutations(tests, 5)}
        assert len(rewards) == 1


def test_a_program_that_brings_its_sandbox_down_fails_that_test_only_by_the_fraction(
    quick: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = confined.Confined.test

    def dies(self: confined.Confined, data: object) -> confined.Raw:
        if data == b"1":
            raise confined.DriverDied("A sandbox ended before its work was done.")
        return real(self, data)

    monkeypatch.setattr(confined.Confined, "test", dies)
    tests = [(str(i), str(i)) for i in range(4)]
    report = run(quick, stdin_task(*tests, reward="fraction"), "print(input())")
    assert report.reward == 3 / 4
    assert "SystemError: the program brought down its sandbox" in describe(report)


def hidden_task(kind: str, **more: object) -> CodeTask:
    tests = [{"input": "'secret'".replace("'", '"'), "output": '"answer"', "public": False}]
    return parse_task(kind, {"tests": tests, **more})


@pytest.mark.parametrize(
    ("program", "heading"),
    [
        ("def solve(x): return x", "Wrong answer"),
        ("def solve(x): raise ValueError(x)", "Runtime error"),
        ("def solve(x):\n    while x: pass", "Time limit exceeded"),
        ("def solve(x): return bytearray(10**9)", "Memory limit exceeded"),
    ],
)
def test_a_hidden_failure_names_its_class_only(quick: Isolation, program: str, heading: str) -> None:
    report = run(quick, hidden_task("code.functional", fn_name="solve", time_limit_s=0.2), program)
    assert describe(report) == f"{heading}: passed 0 of 1 tests."
    assert report.tests == (TestReport(report.tests[0].verdict, public=False),)


def test_the_assertions_of_hidden_test_code_are_not_shown(quick: Isolation) -> None:
    reference = {"test_code": "assert f('secret') == 'answer'", "entry_point": "f", "public": False}
    report = run(quick, parse_task("code.assert", reference), "def f(x): raise ValueError(x)")
    assert describe(report) == "Runtime error: passed 0 of 1 tests."


def test_public_tests_are_run_first_so_that_there_is_something_to_show(quick: Isolation) -> None:
    tests = [{"input": str(i), "output": str(i), "public": i == 5} for i in range(6)]
    task = parse_task("code.stdin", {"tests": tests})
    report = run(quick, task, "x = input()\nif x == '0': 1 / 0\nprint(7)")
    assert report.tests[5].verdict is Verdict.WRONG_ANSWER
    assert describe(report) == (
        "Wrong answer: passed 0 of 6 tests, failed 3, not run 3.\nInput: 5\nOutput: 7\nExpected: 5\n"
        "Another failure on a hidden test: Runtime error."
    )


def test_the_tolerant_comparator_is_asked_for_by_name(quick: Isolation) -> None:
    near, far = "print('x  0.3333333')", "print('x 0.3334')"
    assert not run(quick, stdin_task(("", "x 0.33333333")), near).success
    assert run(quick, stdin_task(("", "x 0.33333333"), comparator="tolerant"), near).success
    assert not run(quick, stdin_task(("", "x 0.33333333"), comparator="tolerant"), far).success
    third = call_task(("1", "[0.1, 2]"), comparator="tolerant")
    assert run(quick, third, "def solve(x): return (0.1000000001, 2.0)").success


@pytest.mark.parametrize(
    ("program", "stop"),
    [
        ("x = 0\nwhile True:\n    x += 1\n    x -= 1\n    y = [x for x in range(9)]", "in the loop of line 2: while True:"),
        ("def f():\n    for _ in iter(int, 1):\n        while id(f): sum(range(9))\nf()", "in the loop of line 2 in f:     for _ in iter(int, 1):"),
        ("def f(n):\n    if n:\n        f(n - 1)\n        f(n - 1)\nf(99)", "in the recursion of line 1 in f: def f(n):"),
        ("def f():\n    return sum(range(10**12))\nprint(f())", "at line 2 in f:     return sum(range(10**12))"),
        ("import time\ntime.sleep(99)", "at line 2: time.sleep(99)"),
    ],
)  # fmt: skip
def test_a_time_limit_says_where_the_program_was_in_the_same_words_each_time(
    isolation: Isolation, program: str, stop: str
) -> None:
    for _ in range(3):
        text = describe(run(isolation, stdin_task(("", "7"), time_limit_s=0.1), program))
        assert text.splitlines()[1:3] == ["The limit is 0.1 CPU seconds for a test.", f"Stopped {stop}"]


def test_a_memory_limit_and_an_output_limit_say_what_the_limit_was(quick: Isolation) -> None:
    defaults = Defaults(memory_limit_mb=64, output_bytes=2**20)
    memory = judge(quick, stdin_task(("", "")), "bytearray(10**9)", defaults)
    assert "The limit is 64 MiB of memory." in describe(memory)
    output = judge(quick, stdin_task(("", "")), "while True: print('x' * 1000)", defaults)
    assert "The limit is 1 MiB of output." in describe(output)


def test_an_error_shows_who_called_and_at_most_three_places(quick: Isolation) -> None:
    program = "def a():\n    1 / 0\ndef b():\n    a()\ndef c():\n    b()\ndef d():\n    c()\nd()\n"
    assert describe(run(quick, stdin_task(("", "")), program)).splitlines()[1:-1] == [
        "ZeroDivisionError: division by zero",
        "Line 2 in a:     1 / 0",
        "Called from line 4 in b:     a()",
        "Called from line 6 in c:     b()",
    ]


def test_a_recursion_is_one_place(quick: Isolation) -> None:
    program = "import sys\nsys.setrecursionlimit(5000)\ndef f(n):\n    return [f(n - 1)\n        for _ in range(1)] if n else 1 / 0\nf(300)\n"
    assert describe(run(quick, stdin_task(("", "")), program)).splitlines()[2:6] == [
        "Line 5 in f:         for _ in range(1)] if n else 1 / 0",
        "Called from line 4 in f:     return [f(n - 1)",
        "... repeated 299 times",
        "Called from line 6: f(300)",
    ]


def test_the_source_line_is_the_one_the_interpreter_counts(quick: Isolation) -> None:
    program = "a = '\x0c\x85\u2028'\nb = 1 / 0\n"
    assert "Line 2: b = 1 / 0" in describe(run(quick, stdin_task(("", "")), program))


def test_a_newline_in_the_name_of_an_error_stays_on_its_line(quick: Isolation) -> None:
    program = "raise type('E\\nPassed all 1 tests.', (Exception,), {})('m')"
    assert describe(run(quick, stdin_task(("", "")), program)).splitlines()[1] == "E\\nPassed all 1 tests.: m"


@pytest.mark.parametrize(
    ("returned", "wanted"),
    [("[(1, 2)]", "[[1, 2]]"), ("{1: 2}", '{"1": 2}'), ("{None: 3}", '{"null": 3}'), ("[()]", "[[]]")],
)
def test_a_value_that_is_like_the_expected_one_in_json_alone_is_wrong(
    quick: Isolation, returned: str, wanted: str
) -> None:
    report = run(quick, call_task(("1", wanted)), f"def solve(x): return {returned}")
    assert report.tests[0].verdict is Verdict.WRONG_ANSWER
    assert f"Output: {returned.replace('None', 'null')}\n" in describe(report)


def test_a_tuple_is_an_array_if_it_is_the_value_itself(quick: Isolation) -> None:
    assert run(quick, call_task(("1", "[1, [2]]")), "def solve(x): return (1, [2])").success


@pytest.mark.parametrize(
    "program",
    [
        "class  Solution :\n    def solve(self, x): return x",
        "def solve(x): return -x\nclass Solution:\n    def solve(self, x): return x",
        "s = 'class Solution'\ndef solve(x): return x",
        "def Solution(): return None\ndef solve(x): return x",
    ],
)
def test_class_solution_is_found_by_parsing(quick: Isolation, program: str) -> None:
    assert run(quick, call_task(("1", "1")), program).success


def test_a_json_text_with_line_separators_inside_is_one_argument(quick: Isolation) -> None:
    assert run(quick, call_task(('"a\u2028b\x85"\n2', "5")), "def solve(s, n): return len(s) + n - 1").success


ASSERTIONS = "assert f(1) == 1\nassert f(2) == 2\nassert f(3) == 3\nassert f(4) == 4\n"


def test_assertions_after_a_failed_one_are_run_for_the_feedback(isolation: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": ASSERTIONS, "entry_point": "f", "max_failures": 2})
    report = run(isolation, task, "def f(x):\n    if x == 1: raise ValueError\n    return 2")
    assert sorted(test.verdict for test in report.tests) == sorted(
        [Verdict.PASSED, Verdict.RUNTIME_ERROR, Verdict.WRONG_ANSWER, Verdict.SKIPPED]
    )
    assert describe(report) == (
        "Runtime error: passed 1 of 4 tests, failed 2, not run 1.\nValueError\n"
        "Line 2 in f:     if x == 1: raise ValueError\nInput: 1\n"
        "Another failure: Wrong answer.\nInput: 3\nOutput: 2\nExpected: assert f(3) == 3"
    )


def test_the_fraction_of_assertions_counts_all_of_them(quick: Isolation) -> None:
    reference = {"test_code": ASSERTIONS, "entry_point": "f", "reward": "fraction", "time_limit_s": 0.2}
    task = parse_task("code.assert", reference)
    program = "import os\ndef f(x):\n    while x == 1: pass\n    if x == 2: os._exit(0)\n    return x"
    assert run(quick, task, program).reward == 2 / 4
    assert run(quick, task, "def f(x): return x").reward == 1.0


def test_test_code_cannot_pass_over_a_candidate_that_was_ended(quick: Isolation) -> None:
    tests = "try:\n    f(1)\nexcept BaseException:\n    pass\nassert True\n"
    task = parse_task("code.assert", {"test_code": tests, "entry_point": "f", "time_limit_s": 0.2})
    report = run(quick, task, "def f(x):\n    while x: pass")
    assert (report.reward, report.tests[0].verdict) == (0.0, Verdict.TIME_LIMIT)


def test_a_failure_outside_the_counted_assertions_is_a_failure(quick: Isolation) -> None:
    tests = "assert f(1) == 1\nfor i in (2, 3):\n    assert f(i) == i\n"
    task = parse_task("code.assert", {"test_code": tests, "entry_point": "f"})
    assert run(quick, task, "def f(x): return x").success
    assert not run(quick, task, "def f(x): return 1").success


def test_an_assert_answer_too_big_to_be_read_is_the_programs_failure_and_not_the_tasks(quick: Isolation) -> None:
    task = parse_task("code.assert", {"test_code": "assert f(1) == 2\n", "entry_point": "f"})
    report = run(quick, task, "def f(x): return [0] * 1_000_000\n")
    assert report.reward == 0.0 and report.tests[0].verdict is not Verdict.PASSED
