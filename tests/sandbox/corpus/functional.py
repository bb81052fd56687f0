"""`code.functional`: functions and methods of `class Solution`, with the twins that are nearly right."""

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
    calls,
    cases,
)

TWO_SUM = calls("twoSum", ("[2, 7, 11, 15]\n9", "[0, 1]"), ("[3, 2, 4]\n6", "[1, 2]"), ("[3, 3]\n6", "[0, 1]"))
TWO_SUM_PROGRAMS: Programs = [
    (
        PASSED,
        "class Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        seen = {}\n        for i, x in enumerate(nums):\n            if target - x in seen: return [seen[target - x], i]\n            seen[x] = i",
    ),
    (
        PASSED,
        "def twoSum(nums, target):\n    for i in range(len(nums)):\n        for j in range(i):\n            if nums[i] + nums[j] == target: return j, i",
    ),
    (
        PASSED,
        "from itertools import combinations\nclass Solution(object):\n    def twoSum(self, nums, target):\n        return next([i, j] for (i, x), (j, y) in combinations(enumerate(nums), 2) if x + y == target)",
    ),
    (
        PASSED,
        "twoSum = lambda nums, target: next([i, j] for j in range(len(nums)) for i in range(j) if nums[i] + nums[j] == target)",
    ),
    (
        PASSED,
        "class Solution:\n    def twoSum(self, *args): return self._find(*args)\n    def _find(self, nums, target):\n        nums = list(enumerate(nums))\n        return [[i, j] for i, x in nums for j, y in nums if i < j and x + y == target][0]",
    ),
    (
        PASSED,
        "class Base:\n    def twoSum(self, nums, target):\n        return [[i, j] for i, x in enumerate(nums) for j, y in enumerate(nums) if i < j and x + y == target][0]\nclass Solution(Base): pass",
    ),
    (
        WRONG,
        "class Solution:\n    def twoSum(self, nums, target):\n        seen = {}\n        for i, x in enumerate(nums):\n            if target - x in seen: return [i, seen[target - x]]\n            seen[x] = i",
    ),
    (WRONG, "def twoSum(nums, target): return [0, 1]"),
    (WRONG, "def twoSum(nums, target): print([0, 1])"),
    (WRONG, "def twoSum(nums, target):\n    return sorted(nums.index(x) for x in nums if target - x in nums)[:2]"),
    (WRONG, "def twoSum(nums, target): return '[0, 1]'"),
    (RAISES, "class Solution:\n    def twoSum(nums, target): return [0, 1]"),
    (RAISES, "class Solution:\n    def two_sum(self, nums, target): return [0, 1]"),
    (RAISES, "def twoSum(nums): return [0, 1]"),
    (RAISES, "def twoSum(nums, target): return {0, 1}"),
    (RAISES, "def twoSum(nums, target): return (x for x in [0, 1])"),
    (RAISES, "def twoSum(nums, target): return nums.index(target - nums[0])[0]"),
    (
        RAISES,
        "class Solution:\n    def __init__(self, size): self.size = size\n    def twoSum(self, nums, target): return [0, 1]",
    ),
    (BROKEN, "class Solution:\ndef twoSum(self, nums, target): return [0, 1]"),
]

PALINDROME = calls("isPalindrome", ("121", "true"), ("-121", "false"), ("10", "false"))
PALINDROME_PROGRAMS: Programs = [
    (PASSED, "class Solution:\n    def isPalindrome(self, x: int) -> bool:\n        return str(x) == str(x)[::-1]"),
    (PASSED, "def isPalindrome(x): return 1 if str(x) == str(x)[::-1] else 0"),
    (
        PASSED,
        "def isPalindrome(x):\n    if x < 0: return False\n    y, r = x, 0\n    while y: y, r = y // 10, r * 10 + y % 10\n    return r == x",
    ),
    (WRONG, "def isPalindrome(x): return str(abs(x)) == str(abs(x))[::-1]"),
    (WRONG, "def isPalindrome(x): return 'true' if str(x) == str(x)[::-1] else 'false'"),
    (WRONG, "def isPalindrome(x): return str(x) == str(x)[::-1] or None"),
    (WRONG, "def isPalindrome(x): return x"),
    (WRONG, "def isPalindrome(x): return [str(x) == str(x)[::-1]]"),
    (RAISES, "def isPalindrome(x): return x == x[::-1]"),
    (SLOW, "def isPalindrome(x):\n    while x != 0: x, r = abs(x) // 10, 0 if x > 9 else 1\n    while True: r += 1"),
]

REVERSE = calls(
    "reverse", ('"abc"', '"cba"'), ('""', '""'), ('"\u00e9\U0001f600x"', '"x\U0001f600\u00e9"'), ('"a\\nb"', '"b\\na"')
)
REVERSE_PROGRAMS: Programs = [
    (PASSED, "def reverse(s): return s[::-1]"),
    (PASSED, "def reverse(s): return ''.join(reversed(s))"),
    (PASSED, "def reverse(s): return s if not s else reverse(s[1:]) + s[0]"),
    (
        PASSED,
        "class Solution:\n    def reverse(self, s: str) -> str:\n        q = deque()\n        for c in s: q.appendleft(c)\n        return ''.join(q)",
    ),
    (WRONG, "def reverse(s): return list(s[::-1])"),
    (WRONG, "def reverse(s): return s[::-1].encode('ascii', 'ignore').decode()"),
    (WRONG, "def reverse(s): return s"),
    (WRONG, "def reverse(s): return s[::-1].upper()"),
    (WRONG, "def reverse(s): return s[::-1] + ' '"),
    (RAISES, "def reverse(s): return s[::-1].encode()"),
    (RAISES, "def reverse(s): return reversed(s)"),
    (RAISES, "def reverse(s): s[0], s[-1] = s[-1], s[0]"),
    (
        RAISES,
        "class T(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef reverse(s): return T('x')",
    ),
]

ROTATE = calls("rotate", ("[[1, 2], [3, 4]]", "[[3, 1], [4, 2]]"), ("[[5]]", "[[5]]"), ("[]", "[]"))
ROTATE_PROGRAMS: Programs = [
    (PASSED, "def rotate(m): return [list(row) for row in zip(*m[::-1])]"),
    (PASSED, "def rotate(m):\n    n = len(m)\n    return [[m[n - 1 - j][i] for j in range(n)] for i in range(n)]"),
    (
        PASSED,
        "def rotate(m):\n    m.reverse()\n    for i in range(len(m)):\n        for j in range(i): m[i][j], m[j][i] = m[j][i], m[i][j]\n    return m",
    ),
    (PASSED, "def rotate(m): return tuple(map(list, zip(*m[::-1])))"),
    (WRONG, "def rotate(m): return list(zip(*m[::-1]))"),
    (WRONG, "def rotate(m): return [list(row) for row in zip(*m)][::-1]"),
    (WRONG, "def rotate(m): m[:] = [list(row) for row in zip(*m[::-1])]"),
    (WRONG, "def rotate(m): return [list(map(float, row)) for row in zip(*m)]"),
    (RAISES, "def rotate(m): return zip(*m[::-1])"),
    (RAISES, "def rotate(m): return [list(row) for row in zip(*m[::-1])] if m[0] else []"),
]

COUNT = calls("count", ('"abca"', '{"a": 2, "b": 1, "c": 1}'), ('""', "{}"))
COUNT_PROGRAMS: Programs = [
    (PASSED, "def count(s): return {c: s.count(c) for c in s}"),
    (PASSED, "def count(s):\n    d = {}\n    for c in sorted(s, reverse=True): d[c] = d.get(c, 0) + 1\n    return d"),
    (PASSED, "from collections import Counter\ndef count(s): return dict(Counter(s))"),
    (PASSED, "def count(s): return {c: float(s.count(c)) for c in s}"),
    (WRONG, "def count(s): return [[c, s.count(c)] for c in s]"),
    (WRONG, "def count(s): return {ord(c): s.count(c) for c in s}"),
    (WRONG, "def count(s): return {c: s.count(c) for c in s[:-2]}"),
    (WRONG, "def count(s): return {c: str(s.count(c)) for c in s}"),
    (RAISES, "class D(dict): pass\ndef count(s): return D()"),
    (RAISES, "def count(s): return {c: s.count(c) for c in s}.items()"),
]

MEAN = calls("mean", ("[1, 2]", "1.5"), ("[0.1, 0.2, 0.3]", "0.20000000000000004"), ("[4]", "4"))
MEAN_PROGRAMS: Programs = [
    (PASSED, "def mean(a): return sum(a) / len(a)"),
    (PASSED, "def mean(a):\n    total = 0\n    for x in a: total += x\n    return total / len(a)"),
    (WRONG, "import math\ndef mean(a): return math.fsum(a) / len(a)"),
    (WRONG, "import statistics\ndef mean(a): return statistics.mean(a)"),
    (WRONG, "def mean(a): return round(sum(a) / len(a), 6)"),
    (WRONG, "def mean(a): return sum(a) // len(a)"),
    (RAISES, "from decimal import Decimal\ndef mean(a): return Decimal(sum(a)) / len(a)"),
    (RAISES, "from fractions import Fraction\ndef mean(a): return Fraction(sum(a)) / len(a)"),
    (RAISES, "def mean(a): return complex(sum(a) / len(a))"),
]
NEAR_MEAN = calls("mean", ("[1, 2]", "1.5"), ("[0.1, 0.2, 0.3]", "0.20000000000000004"), comparator="tolerant")
NEAR_MEAN_PROGRAMS: Programs = [
    (PASSED, "import math\ndef mean(a): return math.fsum(a) / len(a)"),
    (PASSED, "def mean(a): return round(sum(a) / len(a), 7)"),
    (WRONG, "def mean(a): return round(sum(a) / len(a)) + 0.5"),
    (WRONG, "def mean(a): return sum(a) / len(a) + 1e-5"),
    (WRONG, "def mean(a): return float('nan')"),
]

PRIMES = calls(
    "primes", ("10", "[2, 3, 5, 7]"), ("2", "[]"), ("30", "[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]"), time_limit_s=0.5
)
PRIMES_PROGRAMS: Programs = [
    (PASSED, "def primes(n): return [p for p in range(2, n) if all(p % d for d in range(2, p))]"),
    (
        PASSED,
        "def primes(n):\n    sieve = [True] * n\n    for p in range(2, n):\n        if sieve[p]:\n            for q in range(p * p, n, p): sieve[q] = False\n    return [p for p in range(2, n) if sieve[p]]",
    ),
    (
        PASSED,
        "def generate():\n    n = 2\n    while True:\n        if all(n % d for d in range(2, int(n ** 0.5) + 1)): yield n\n        n += 1\ndef primes(n):\n    from itertools import takewhile\n    return list(takewhile(lambda p: p < n, generate()))",
    ),
    (
        PASSED,
        "import functools\n@functools.lru_cache(None)\ndef prime(n): return n > 1 and all(n % d for d in range(2, n))\ndef primes(n): return list(filter(prime, range(n)))",
    ),
    (
        WRONG,
        "def primes(n): return [p for p in range(2, n + 1) if all(p % d for d in range(2, p))]\nprimes = (lambda f: lambda n: f(n) + [4])(primes)",
    ),
    (WRONG, "def primes(n): return [p for p in range(2, n + 1) if all(p % d for d in range(2, p))]"),
    (WRONG, "def primes(n): return [p for p in range(1, n) if all(p % d for d in range(2, p))]"),
    (WRONG, "def primes(n): return [2] + [p for p in range(3, n, 2) if p % 3 or p == 3]"),
    (
        SLOW,
        "def primes(n):\n    out, p = [], 2\n    while len(out) < n:\n        if all(p % d for d in range(2, p)): out.append(p)\n        if p < n: p += 1\n    return out",
    ),
    (BIG, "def primes(n): return [True] * 10 ** 9"),
    (RAISES, "def primes(n): return [p for p in range(n) if p % p == 0]"),
    (RAISES, "def primes(n):\n    import sys\n    sys.exit(0)"),
    (RAISES, "def primes(n):\n    import os\n    os._exit(0)"),
    (RAISES, "def primes(n): raise SystemExit"),
    (RAISES, "def primes(n):\n    yield 2"),
    (RAISES, "async def primes(n): return [2]"),
]

STATE = calls("push", ("1", "[1]"), ("2", "[2]"), ("3", "[3]"))
STATE_PROGRAMS: Programs = [
    (PASSED, "seen = []\ndef push(x):\n    seen.append(x)\n    return seen"),
    (PASSED, "def push(x, seen=[]):\n    seen.append(x)\n    return seen"),
    (
        PASSED,
        "class Solution:\n    seen = []\n    def push(self, x):\n        self.seen.append(x)\n        return self.seen",
    ),
    (WRONG, "def push(x): return [1]"),
    (WRONG, "def push(x): return x"),
    (WRONG, "def push(x): return [[x]]"),
    (RAISES, "def push(x):\n    a = [x]\n    a.append(a)\n    return a"),
    (RAISES, "def push(x): return push"),
    (RAISES, "def push(x): return object()"),
    (RAISES, "class A(list): pass\ndef push(x): return A([x])"),
    (RAISES, "class A(int): pass\ndef push(x): return [A(x)]"),
    (RAISES, "def push(x): return [b'1']"),
]

NO_ARGUMENTS = calls("answer", ("", "42"))
NO_ARGUMENTS_PROGRAMS: Programs = [
    (PASSED, "def answer(): return 42"),
    (PASSED, "def answer(x=42): return x"),
    (PASSED, "print(41)\ndef answer():\n    print(43)\n    return 42"),
    (WRONG, "def answer(): return '42'"),
    (WRONG, "def answer(): return 42.5"),
    (WRONG, "def answer(): print(42)"),
    (RAISES, "answer = 42"),
    (RAISES, "def answer(x): return x"),
    (RAISES, "if __name__ == '__main__':\n    def answer(): return 42"),
]

DEEP = calls("nest", ("3", "[[[]]]"), ("1", "[]"))
DEEP_PROGRAMS: Programs = [
    (PASSED, "def nest(n): return [nest(n - 1)] if n > 1 else []"),
    (PASSED, "def nest(n):\n    out = []\n    for _ in range(n - 1): out = [out]\n    return out"),
    (WRONG, "def nest(n): return [nest(n - 1)] if n > 0 else []"),
    (WRONG, "def nest(n): return '[' * n + ']' * n"),
    (WRONG, "def nest(n): return (nest(n - 1),) if n > 1 else ()"),
    (RAISES, "def nest(n):\n    out = []\n    for _ in range(10 ** 5): out = [out]\n    return out"),
]

SCORE = calls("score", ("true\nnull\n[1.5]", "3.5"), ('false\n"x"\n[]', "0"))
SCORE_PROGRAMS: Programs = [
    (PASSED, "def score(flag, name, xs): return 2 * flag + sum(xs)"),
    (
        PASSED,
        "def score(flag, name, xs):\n    assert name is None or isinstance(name, str)\n    return (2 if flag else 0) + sum(xs, 0.0)",
    ),
    (WRONG, "def score(flag, name, xs): return flag + sum(xs)"),
    (WRONG, "def score(flag, name, xs): return None"),
    (RAISES, "def score(flag, name, xs): return len(name)"),
]


def all_cases() -> Iterator[Case]:
    """Every case of this kind."""
    yield from cases("two-sum", TWO_SUM, TWO_SUM_PROGRAMS)
    yield from cases("palindrome", PALINDROME.model_copy(update={"time_limit_s": 0.5}), PALINDROME_PROGRAMS)
    yield from cases("reverse", REVERSE, REVERSE_PROGRAMS)
    yield from cases("rotate", ROTATE, ROTATE_PROGRAMS)
    yield from cases("count", COUNT, COUNT_PROGRAMS)
    yield from cases("mean", MEAN, MEAN_PROGRAMS)
    yield from cases("near-mean", NEAR_MEAN, NEAR_MEAN_PROGRAMS)
    yield from cases("primes", PRIMES, PRIMES_PROGRAMS)
    yield from cases("state", STATE, STATE_PROGRAMS)
    yield from cases("no-arguments", NO_ARGUMENTS, NO_ARGUMENTS_PROGRAMS)
    yield from cases("deep", DEEP, DEEP_PROGRAMS)
    yield from cases("score", SCORE, SCORE_PROGRAMS)
