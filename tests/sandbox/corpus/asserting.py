"""`code.assert`: test code in the style of HumanEval (a function `check`) and of MBPP (bare assertions)."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterator

from tests.sandbox.corpus.case import (
    BIG,
    BROKEN,
    PASSED,
    RAISES,
    SLOW,
    WRONG,
    Case,
    Programs,
    asserts,
    cases,
)

CLOSE = asserts(
    "has_close_elements",
    """
    METADATA = {'author': 'somebody'}

    def check(candidate):
        assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
        assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False
        assert candidate([1.0, 2.0, 5.9, 4.0, 5.0], 0.95) == True
        assert candidate([], 0.5) == False
    """,
)
CLOSE_PROGRAMS: Programs = [
    (
        PASSED,
        "from typing import List\ndef has_close_elements(numbers: List[float], threshold: float) -> bool:\n    for i, a in enumerate(numbers):\n        for j, b in enumerate(numbers):\n            if i != j and abs(a - b) < threshold: return True\n    return False",
    ),
    (
        PASSED,
        "def has_close_elements(numbers, threshold):\n    s = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(s, s[1:]))",
    ),
    (
        WRONG,
        "def has_close_elements(numbers, threshold):\n    return any(abs(b - a) < threshold for a, b in zip(numbers, numbers[1:]))",
    ),
    (WRONG, "def has_close_elements(numbers, threshold): return True"),
    (WRONG, "def has_close_elements(numbers, threshold): return None"),
    (WRONG, "def has_close_elements(numbers, threshold): print(True)"),
    (
        RAISES,
        "def has_close_elements(numbers, threshold): return min(numbers) > threshold and max(numbers) < undefined",
    ),
    (
        RAISES,
        "def has_close_elements(numbers, threshold): return min(abs(a - b) for a in numbers for b in numbers if a is not b) < threshold",
    ),
    (
        RAISES,
        "class Always:\n    def __eq__(self, other): return True\ndef has_close_elements(numbers, threshold): return Always()",
    ),
    (RAISES, "def close(numbers, threshold): return False"),
    (RAISES, "import os\nos._exit(0)"),
    (BROKEN, "def has_close_elements(numbers, threshold)\n    return False"),
]

PRODUCT = asserts(
    "sum_product",
    """
    def check(candidate):
        assert candidate([]) == (0, 1)
        assert candidate([1, 1, 1]) == (3, 1)
        assert candidate([100, 0]) == (100, 0), "a zero"
        assert candidate([3, 5, 7]) == (3 + 5 + 7, 3 * 5 * 7)
    check(sum_product)
    """,
)
PRODUCT_PROGRAMS: Programs = [
    (PASSED, "def sum_product(numbers):\n    s, p = 0, 1\n    for x in numbers: s, p = s + x, p * x\n    return s, p"),
    (PASSED, "import math\ndef sum_product(numbers): return (sum(numbers), math.prod(numbers))"),
    (
        PASSED,
        "from functools import reduce\nfrom operator import mul\nsum_product = lambda numbers: (sum(numbers), reduce(mul, numbers, 1))",
    ),
    (WRONG, "def sum_product(numbers): return [sum(numbers), __import__('math').prod(numbers)]"),
    (WRONG, "def sum_product(numbers):\n    s, p = 0, 0\n    for x in numbers: s, p = s + x, p * x\n    return s, p"),
    (WRONG, "import math\ndef sum_product(numbers): return math.prod(numbers), sum(numbers)"),
    (WRONG, "import math\ndef sum_product(numbers): return sum(numbers), math.prod(numbers) if all(numbers) else None"),
    (
        RAISES,
        "from functools import reduce\nfrom operator import mul\ndef sum_product(numbers): return sum(numbers), reduce(mul, numbers)",
    ),
    (RAISES, "def sum_product(numbers): return sum(numbers), map(int, numbers)"),
    (RAISES, "def sum_product(self, numbers): return 0, 1"),
]

ROUND_TRIP = asserts(
    "decode",
    """
    def check(candidate):
        from random import randint, choice
        import string

        def encode(text):
            groups = [text[3 * i:3 * i + 3] for i in range((len(text) + 2) // 3)]
            return "".join(g[1:] + g[0] if len(g) == 3 else g for g in groups)

        for _ in range(20):
            text = ''.join(choice(string.ascii_lowercase) for i in range(randint(0, 12)))
            assert candidate(encode(text)) == text
    """,
)
ROUND_TRIP_PROGRAMS: Programs = [
    (
        PASSED,
        "def decode(s):\n    groups = [s[i:i + 3] for i in range(0, len(s), 3)]\n    return ''.join(g[-1] + g[:-1] if len(g) == 3 else g for g in groups)",
    ),
    (
        WRONG,
        "def decode(s):\n    groups = [s[i:i + 3] for i in range(0, len(s), 3)]\n    return ''.join(g[1:] + g[0] if len(g) == 3 else g for g in groups)",
    ),
    (WRONG, "def decode(s): return s"),
    (WRONG, "def decode(s): return s[-1:] + s[:-1]"),
]

SIMILAR = asserts(
    "similar_elements",
    """
    assert set(similar_elements((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))
    assert set(similar_elements((1, 2, 3, 4), (5, 4, 3, 7))) == set((3, 4))
    assert similar_elements((), ()) == ()
    """,
)
SIMILAR_PROGRAMS: Programs = [
    (PASSED, "def similar_elements(a, b): return tuple(set(a) & set(b))"),
    (PASSED, "def similar_elements(a, b): return tuple(x for x in a if x in b)"),
    (WRONG, "def similar_elements(a, b): return [x for x in a if x in b]"),
    (WRONG, "def similar_elements(a, b): return tuple(set(a) | set(b))"),
    (WRONG, "def similar_elements(a, b): return (4, 5)"),
    (RAISES, "def similar_elements(a, b): return a & b"),
    (RAISES, "def similar_elements(a, b): return tuple(a).index(b[0])"),
]

RAISING = asserts(
    "root",
    """
    assert root(9) == 3
    assert root(0) == 0
    try:
        root(-1)
        assert False, "a negative number"
    except ValueError as error:
        assert "negative" in str(error)
    """,
)
RAISING_PROGRAMS: Programs = [
    (PASSED, "def root(x):\n    if x < 0: raise ValueError('negative number')\n    return round(x ** 0.5)"),
    (
        PASSED,
        "class Negative(ValueError): pass\ndef root(x):\n    if x < 0: raise ValueError('it is negative')\n    return int(x ** 0.5)",
    ),
    (WRONG, "def root(x): return abs(x) ** 0.5"),
    (WRONG, "import math\ndef root(x): return math.sqrt(x)"),
    (RAISES, "def root(x):\n    if x < 0: raise TypeError('negative number')\n    return round(x ** 0.5)"),
]

MUTATING = asserts(
    "unique",
    """
    values = [3, 1, 3, 2, 1]
    assert unique(values) == [3, 1, 2]
    assert values == [3, 1, 3, 2, 1]
    assert unique([]) == []
    assert unique(["a", "a"]) == ["a"]
    """,
)
MUTATING_PROGRAMS: Programs = [
    (PASSED, "def unique(values): return list(dict.fromkeys(values))"),
    (
        PASSED,
        "def unique(values):\n    seen = []\n    for x in values:\n        if x not in seen: seen.append(x)\n    return seen",
    ),
    (
        PASSED,
        "def unique(values):\n    i = 0\n    while i < len(values):\n        if values[i] in values[:i]: values.pop(i)\n        else: i += 1\n    return values",
    ),
    (WRONG, "def unique(values): return sorted(set(values), key=str)"),
    (WRONG, "def unique(values): return dict.fromkeys(values)"),
    (RAISES, "def unique(values): return dict.fromkeys(values).keys()"),
    (RAISES, "def unique(values): return values.unique()"),
]

TYPES = asserts(
    "same",
    """
    assert same({1: (2, 3)}) == {1: (2, 3)}
    assert same({1, 2}) == {1, 2}
    assert same(b"x") == b"x"
    assert same(None) is None
    assert same(1 + 2j) == 1 + 2j
    assert same(float("inf")) == float("inf")
    assert same(x="y") == "y"
    """,
)
TYPES_PROGRAMS: Programs = [
    (PASSED, "def same(x): return x"),
    (PASSED, "import copy\ndef same(x): return copy.deepcopy(x)"),
    (WRONG, "def same(x): return str(x)"),
    (WRONG, "def same(x): return list(x) if isinstance(x, set) else x"),
    (WRONG, "import json\ndef same(x): return {str(k): v for k, v in x.items()} if isinstance(x, dict) else x"),
    (RAISES, "def same(y): return y"),
    (RAISES, "def same(x): return frozenset(x) if isinstance(x, set) else x"),
]

QUICK = asserts("count", "assert count(3) == 3\nassert count(5) == 5", time_limit_s=0.3, memory_limit_mb=64)
QUICK_PROGRAMS: Programs = [
    (PASSED, "def count(n): return len(range(n))"),
    (PASSED, "calls = 0\ndef count(n):\n    global calls\n    calls += 1\n    return n if calls == 1 else 0"),
    (SLOW, "def count(n):\n    while True: n += 1"),
    (SLOW, "while True: pass"),
    (SLOW, "def count(n):\n    try:\n        while True: pass\n    except BaseException: return n"),
    (BIG, "def count(n): return len([0] * 10 ** 9)"),
    (RAISES, "def count(n): return count(n - 1) + 1"),
    (RAISES, "import os, signal\ndef count(n): os.kill(os.getpid(), signal.SIGSEGV)"),
    (RAISES, "def count(n):\n    import sys\n    sys.exit(0)"),
    (RAISES, "def count(n): raise AssertionError"),
    (WRONG, "def count(n): return 3"),
    (WRONG, "def count(n): return n + 1"),
]


def all_cases() -> Iterator[Case]:
    """Every case of this kind."""
    yield from cases("close", CLOSE, CLOSE_PROGRAMS)
    yield from cases("product", PRODUCT, PRODUCT_PROGRAMS)
    yield from cases("round-trip", ROUND_TRIP, ROUND_TRIP_PROGRAMS)
    yield from cases("similar", SIMILAR, SIMILAR_PROGRAMS)
    yield from cases("raising", RAISING, RAISING_PROGRAMS)
    yield from cases("mutating", MUTATING, MUTATING_PROGRAMS)
    yield from cases("types", TYPES, TYPES_PROGRAMS)
    yield from cases("assert-quick", QUICK, QUICK_PROGRAMS)
