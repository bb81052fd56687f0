"""`code.stdin`: every idiom of reading and writing, with right and wrong work around it, and what breaks mock judges."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterator

from tests.sandbox.corpus.case import (
    BIG,
    BROKEN,
    LONG,
    PASSED,
    RAISES,
    SLOW,
    WRONG,
    Case,
    Programs,
    cases,
    crossed,
    stdin,
)

READERS = {
    "input": "data = []\ntry:\n    while True:\n        data.append(input())\nexcept EOFError:\n    pass\ndata = '\\n'.join(data)",
    "read": "import sys\ndata = sys.stdin.read()",
    "readlines": "import sys\ndata = ''.join(sys.stdin.readlines())",
    "for-in-stdin": "import sys\ndata = ''\nfor line in sys.stdin:\n    data += line",
    "list-of-stdin": "import sys\ndata = '\\n'.join([line.rstrip() for line in sys.stdin])",
    "iter-readline": "import sys\ndata = ''.join(iter(sys.stdin.readline, ''))",
    "readline-then-read": "import sys\ndata = sys.stdin.readline()\ndata += sys.stdin.read()",
    "input-then-read": "import sys\ndata = input() + '\\n' + sys.stdin.read()",
    "input-then-for": "import sys\ndata = input() + '\\n'\nfor line in sys.stdin:\n    data += line",
    "readline-alias": "import sys\ninput = sys.stdin.readline\ndata = ''\nwhile line := input():\n    data += line",
    "next": "import sys\ndata = next(sys.stdin)\ndata += ''.join(sys.stdin)",
    "buffer-read": "import sys\ndata = sys.stdin.buffer.read().decode()",
    "buffer-readline": "import sys\nread = sys.stdin.buffer.readline\ndata = (read() + read()).decode()\nwhile line := read():\n    data += line.decode()",
    "buffer-for": "import sys\ndata = b''.join(line for line in sys.stdin.buffer).decode()",
    "buffer-read1": "import sys\ndata = b''\nwhile part := sys.stdin.buffer.read1(3):\n    data += part\ndata = data.decode()",
    "buffer-readinto": "import sys\nroom = bytearray(1000)\ndata = bytes(room[:sys.stdin.buffer.readinto(room)]).decode()",
    "buffer-raw": "import sys\ndata = sys.stdin.buffer.raw.readall().decode()",
    "os-read": "import os\ndata = os.read(0, 10**6).decode()",
    "os-read-parts": "import os\ndata = b''\nwhile part := os.read(0, 2):\n    data += part\ndata = data.decode()",
    "os-fstat": "import os\ndata = os.read(0, os.fstat(0).st_size + 1).decode()",
    "bytesio": "import io, os\ninput = io.BytesIO(os.read(0, 10**6)).readline\ndata = ''\nwhile line := input():\n    data += line.decode()",
    "open-0": "data = open(0).read()",
    "open-0-lines": "data = '\\n'.join(map(str.rstrip, open(0)))",
    "open-0-bytes": "data = open(0, 'rb').read().decode()",
    "with-open-0": "with open(0) as file:\n    data = ''.join(file.readlines())",
    "dev-stdin": "data = open('/dev/stdin').read()",
    "pathlib": "from pathlib import Path\ndata = Path('/dev/stdin').read_text()",
    "fdopen": "import os\ndata = os.fdopen(0).read()",
    "fileinput": "import fileinput\ndata = ''.join(fileinput.input())",
    "wrapper": "import io, sys\ndata = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8').read()",
    "mmap": "import mmap\ndata = mmap.mmap(0, 0, prot=mmap.PROT_READ)[:].decode()",
    "csv": "import csv, sys\ndata = '\\n'.join(' '.join(row) for row in csv.reader(sys.stdin, delimiter=' '))",
    "stdin-alias": "from sys import stdin\ndata = stdin.readline() + stdin.read()",
    "dunder-stdin": "import sys\ndata = sys.__stdin__.read()",
    "split-generator": "import sys\ntokens = (token for line in sys.stdin for token in line.split())\ncount = next(tokens)\ndata = count + '\\n' + ' '.join(tokens)",
    "import-hook": "data = __import__('sys').stdin.read()",
    "exec": "exec('import sys\\ndata = sys.stdin.read()')",
    "seek": "import os\nos.read(0, 1)\nos.lseek(0, 0, 0)\ndata = open(0).read()",
}

WRITERS = {
    "print": "for line in lines:\n    print(line)",
    "print-star": "print(*lines, sep='\\n')",
    "print-flush": "for line in lines:\n    print(line, flush=True)",
    "print-end": "for line in lines:\n    print(line, end='\\n')",
    "no-last-newline": "print('\\n'.join(lines), end='')",
    "trailing-spaces": "for line in lines:\n    print(line + '  ')",
    "stdout-write": "import sys\nsys.stdout.write('\\n'.join(lines))",
    "writelines": "import sys\nsys.stdout.writelines(line + '\\n' for line in lines)",
    "stdout-alias": "from sys import stdout\nwrite = stdout.write\nfor line in lines:\n    write(line + '\\n')",
    "buffer": "import sys\nsys.stdout.buffer.write('\\n'.join(lines).encode())",
    "buffer-flush": "import sys\nfor line in lines:\n    sys.stdout.buffer.write(line.encode() + b'\\n')\n    sys.stdout.buffer.flush()",
    "os-write": "import os\nos.write(1, '\\n'.join(lines).encode())",
    "mixed": "import os\nprint(lines[0], flush=True)\nos.write(1, '\\n'.join(lines[1:]).encode())",
    "open-1": "with open(1, 'w') as out:\n    out.write('\\n'.join(lines))",
    "open-1-print": "print('\\n'.join(lines), file=open(1, 'w', closefd=False))",
    "dev-stdout": "open('/dev/stdout', 'w').write('\\n'.join(lines))",
    "stringio": "import io, sys\nkeep, sys.stdout = sys.stdout, io.StringIO()\nfor line in lines:\n    print(line)\nkeep.write(sys.stdout.getvalue())\nsys.stdout = keep",
    "redirect": "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    print(*lines, sep='\\n')\nprint(out.getvalue())",
    "atexit": "import atexit\natexit.register(lambda: print(*lines, sep='\\n'))",
    "thread": "import threading\nthreading.Thread(target=lambda: print(*lines, sep='\\n')).start()",
    "sys-exit": "import sys\nprint(*lines, sep='\\n')\nsys.exit()",
    "exit-0": "print(*lines, sep='\\n')\nexit(0)",
    "quit": "print(*lines, sep='\\n')\nquit()",
    "raise-exit": "print(*lines, sep='\\n')\nraise SystemExit",
    "flush-os-exit": "import os\nprint(*lines, sep='\\n', flush=True)\nos._exit(0)",
    "also-stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(*lines, sep='\\n')",
    "crlf": "print('\\r\\n'.join(lines), end='\\r\\n')",
    "blank-around": "print()\nprint(*lines, sep='\\n')\nprint('\\n')",
    "reconfigure": "import sys\nsys.stdout.reconfigure(line_buffering=True)\nprint(*lines, sep='\\n')",
    "pprint": "import pprint\nfor line in lines:\n    pprint.pp(int(line))",
    "logging": "import logging, sys\nlogging.basicConfig(stream=sys.stdout, format='%(message)s', level=20)\nfor line in lines:\n    logging.info(line)",
}

SUMS = stdin(
    ("3\n1 2 3\n", "6\n1\n3"),
    ("1\n-5", "-5\n-5\n-5"),
    ("4\n1000000000000 1 1 1\n\n", "1000000000003\n1\n1000000000000"),
)
SUMS_BODIES: Programs = [
    (PASSED, "PART\nn, *a = map(int, data.split())\nprint(sum(a[:n]))\nprint(min(a))\nprint(max(a))"),
    (WRONG, "PART\nn, *a = map(int, data.split())\nprint(sum(a[:n - 1]))\nprint(min(a))\nprint(max(a))"),
]
SQUARES = stdin(("3", "1\n4\n9"), ("5", "1\n4\n9\n16\n25"))
SQUARES_BODIES: Programs = [
    (PASSED, "lines = [str(i * i) for i in range(1, int(input()) + 1)]\nPART"),
    (WRONG, "lines = [str(i * i) for i in range(1, int(input()))]\nPART"),
]

SQUARES_PROGRAMS: Programs = [
    (WRONG, "print(1)"),
    (WRONG, "print(1)\nprint(4)"),
    (WRONG, "n = int(input())\nfor _ in range(2):\n    for i in range(1, n + 1): print(i * i)"),
    (WRONG, "n = int(input())\nfor i in range(1, n + 1): print(i * i)\nprint('done')"),
    (WRONG, "n = int(input())\nprint('Answer:')\nfor i in range(1, n + 1): print(i * i)"),
    (WRONG, "n = int(input('n = '))\nfor i in range(1, n + 1): print(i * i)"),
    (WRONG, "n = int(input())\nprint(*[i * i for i in range(1, n + 1)])"),
    (WRONG, "n = int(input())\nprint([i * i for i in range(1, n + 1)])"),
    (WRONG, "n = int(input())\nfor i in range(1, n + 1): print(i * i, end='')"),
    (WRONG, "n = int(input())\nfor i in range(1, n + 1): print(i * i)\n    \nprint(None)"),
    (WRONG, "n = int(input())\nfor i in range(n, 0, -1): print(i * i)"),
    (WRONG, "import sys\nn = int(input())\nfor i in range(1, n + 1): print(i * i, file=sys.stderr)"),
    (WRONG, "pass"),
    (WRONG, ""),
    (WRONG, "def main():\n    n = int(input())\n    for i in range(1, n + 1): print(i * i)"),
    (WRONG, "import os\nprint('1\\n4\\n9')\nos._exit(0)"),
    (WRONG, "if __name__ == 'solution':\n    for i in range(1, int(input()) + 1): print(i * i)"),
    (WRONG, "n = int(input())\nfor i in range(1, n + 1): print(i * i + 1e-9)"),
    (WRONG, "n = int(input())\nfor i in range(1, n + 1): print(f'{i * i},')"),
    (WRONG, "for i in range(1, 4): print(i * i)"),
    (PASSED, "n = int(input())\nfor i in range(1, n + 1): print(float(i * i))"),
    (PASSED, "n = int(input())\nfor i in range(1, n + 1): print(f'{i * i:05d}')"),
    (PASSED, "n = int(input())\nfor i in range(1, n + 1): print(f'{i * i:.3e}')"),
    (PASSED, "from decimal import Decimal\nfor i in range(1, int(input()) + 1): print(Decimal(i) ** 2)"),
    (PASSED, "from fractions import Fraction\nfor i in range(1, int(input()) + 1): print(Fraction(i) ** 2)"),
    (RAISES, "n = int(input())\nfor i in range(1, n + 1): print(i * i)\nraise ValueError('late')"),
    (RAISES, "n = int(input())\nm = int(input())\nprint(n)"),
    (RAISES, "n = int(input())\nfor i in range(1, n + 1): print(i * i)\nimport sys\nsys.exit(1)"),
    (RAISES, "n = int(input())\nfor i in range(1, n + 1): print(i * i)\nexit('done')"),
    (RAISES, "n = input()\nfor i in range(1, n + 1): print(i * i)"),
    (RAISES, "for i in range(1, m + 1): print(i * i)"),
    (RAISES, "import numpy as np\nprint(np.arange(3))"),
    (RAISES, "assert False"),
    (RAISES, "raise KeyboardInterrupt"),
    (RAISES, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"),
    (RAISES, "import os\nos.abort()"),
    (RAISES, "import os\nos._exit(3)"),
    (RAISES, "def f(n): return f(n + 1)\nf(0)"),
    (RAISES, "n = int(input())\nprint(10 ** 5000)"),
    (RAISES, "import threading\nraise RuntimeError"),
    (RAISES, "class A:\n    def __init__(self): self.x = self.y\nA()"),
    (BROKEN, "n = int(input()\nprint(n)"),
    (BROKEN, "for i in range(3):\nprint(i)"),
    (BROKEN, "print 'x'"),
    (BROKEN, "x = 08"),
    (BROKEN, "return 5"),
    (BROKEN, "def f():\n\tx = 1\n        y = 2"),
    (BROKEN, "await x"),
    (BROKEN, "print(1)\nbreak"),
    (BROKEN, "f(x=1, x=2)"),
    (BROKEN, "Here is the program:\nprint(1)"),
    (BROKEN, "x = '\nprint(x)"),
    (BROKEN, "nonlocal x"),
    (BROKEN, "def f(a, a): pass"),
]

QUICK = stdin(("3", "1\n4\n9"), time_limit_s=0.3)
QUICK_PROGRAMS: Programs = [
    (SLOW, "while True: pass"),
    (SLOW, "n = int(input())\nwhile n: n += 1"),
    (SLOW, "print('1\\n4\\n9', flush=True)\nwhile True: pass"),
    (SLOW, "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nprint(fib(60))"),
    (SLOW, "print(sum(range(10 ** 12)))"),
    (SLOW, "try:\n    while True: pass\nexcept BaseException: print('1\\n4\\n9')"),
    (SLOW, "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    (SLOW, "print(len(str(bin(3 ** (10 ** 8)))))"),
    (SLOW, "import itertools\nfor _ in itertools.count(): pass"),
    (SLOW, "import atexit\n@atexit.register\ndef last():\n    while True: pass\nprint('1\\n4\\n9')"),
    (
        SLOW,
        "import threading\ndef work():\n    while True: pass\nthreading.Thread(target=work).start()\nprint('1\\n4\\n9')",
    ),
    (SLOW, "n = 10 ** 4\nprint(sum(1 for a in range(n) for b in range(n) if a * b == 7))"),
]
SMALL = stdin(("3", "1\n4\n9"), memory_limit_mb=64)
SMALL_PROGRAMS: Programs = [
    (BIG, "x = bytearray(10 ** 9)"),
    (BIG, "x = [0] * 10 ** 8\nprint(len(x))"),
    (BIG, "x = []\nwhile True: x.append('x' * 10 ** 6 + str(len(x)))"),
    (BIG, "x = 'x'\nwhile True: x += x"),
    (BIG, "d = {}\nfor i in range(10 ** 8): d[i] = [i]"),
    (BIG, "print('x' * 10 ** 10)"),
    (PASSED, "x = bytearray(20 * 2 ** 20)\nn = int(input())\nfor i in range(1, n + 1): print(i * i)"),
    (PASSED, "try:\n    x = bytearray(10 ** 9)\nexcept MemoryError:\n    print('1\\n4\\n9')"),
]
FLOOD_PROGRAMS: Programs = [
    (LONG, "while True: print('x' * 10 ** 5)"),
    (LONG, "import sys\nwhile True: sys.stdout.buffer.write(b'x' * 10 ** 6)"),
    (LONG, "import os\nwhile True: os.write(1, b'9\\n' * 10 ** 5)"),
]

ECHO = stdin(("abc\n", "abc"), ("x y  z\n1\n", "x y  z\n1"), ("\u00e9\u4e2d\U0001f600\n", "\u00e9\u4e2d\U0001f600"))
ECHO_PROGRAMS: Programs = [
    (PASSED, "import sys\nprint(sys.stdin.read())"),
    (PASSED, "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"),
    (PASSED, "import shutil, sys\nshutil.copyfileobj(sys.stdin, sys.stdout)"),
    (PASSED, "import os\nwhile part := os.read(0, 4): os.write(1, part)"),
    (PASSED, "import sys\nfor line in sys.stdin: print(line, end='')"),
    (PASSED, "import sys\n[print(line.rstrip('\\n')) for line in sys.stdin]"),
    (PASSED, "import fileinput\nfor line in fileinput.input(): print(line.strip())"),
    (PASSED, "while True:\n    try: print(input())\n    except EOFError: break"),
    (PASSED, "import contextlib\nwith contextlib.suppress(EOFError):\n    while True: print(input())"),
    (PASSED, "import io, sys\nsys.stdin = io.StringIO(sys.stdin.read())\nprint(sys.stdin.read())"),
    (WRONG, "print(input())"),
    (WRONG, "import sys\nprint(sys.stdin.read().upper())"),
    (WRONG, "import sys\nprint(' '.join(sys.stdin.read().split()))"),
    (WRONG, "import sys\nprint(repr(sys.stdin.read()))"),
    (WRONG, "import sys\nprint(sys.stdin.buffer.read())"),
    (WRONG, "import sys\nprint(sys.stdin.read().encode('ascii', 'replace').decode())"),
    (RAISES, "import sys\nprint(sys.stdin.buffer.read().decode('ascii'))"),
    (RAISES, "while True: print(input())"),
]

EMPTY = stdin(("", ""), ("\n\n", ""), ("x", "\n"))
EMPTY_PROGRAMS: Programs = [
    (PASSED, ""),
    (PASSED, "pass"),
    (PASSED, "print()"),
    (PASSED, "print('  \\n\\t')"),
    (PASSED, "import sys\nfor line in sys.stdin: line"),
    (PASSED, "# nothing to do"),
    (PASSED, "'''A docstring alone.'''"),
    (WRONG, "print(0)"),
    (WRONG, "print('.')"),
    (WRONG, "print(None)"),
    (RAISES, "input()"),
]

LARGE = stdin(("150000", "x" * 150_000), ("1048576", "x" * 2**20))
LARGE_PROGRAMS: Programs = [
    (PASSED, "print('x' * int(input()))"),
    (PASSED, "import sys\nsys.stdout.write('x' * int(input()))"),
    (PASSED, "for _ in range(int(input())): print('x', end='')"),
    (PASSED, "import os\nleft = int(input())\nwhile left: left -= os.write(1, b'x' * min(left, 10 ** 4))"),
    (PASSED, "import sys\nsys.stdout.buffer.write(b'x' * int(input()))"),
    (WRONG, "print('x' * (int(input()) - 1))"),
    (WRONG, "print('x' * int(input()) + 'y')"),
    (WRONG, "print('x' * 150000)"),
]
NUMBERS = stdin(
    ("100000\n" + " ".join(map(str, range(100_000))), "\n".join(str(2 * i) for i in range(100_000))), ("1\n7", "14")
)
NUMBERS_PROGRAMS: Programs = [
    (PASSED, "n = int(input())\nfor x in map(int, input().split()): print(2 * x)"),
    (PASSED, "import sys\nprint('\\n'.join(str(2 * int(x)) for x in sys.stdin.read().split()[1:]))"),
    (
        PASSED,
        "from array import array\nn = int(input())\na = array('q', map(int, input().split()))\nprint(*[2 * x for x in a], sep='\\n')",
    ),
    (PASSED, "n = int(input())\nfor x in map(int, input().split()): print(2.0 * x)"),
    (WRONG, "n = int(input())\nfor x in list(map(int, input().split()))[:99999]: print(2 * x)"),
    (WRONG, "n = int(input())\nfor x in map(int, input().split()): print(2 * x if x != 99999 else 199999)"),
    (RAISES, "n = int(input())\na = [int(input()) for _ in range(n)]"),
]

FLOATS = stdin(("1 3", "0.3333333333333333"), ("1 4", "0.25"), ("4 2", "2"))
FLOATS_PROGRAMS: Programs = [
    (PASSED, "a, b = map(int, input().split())\nprint(a / b)"),
    (WRONG, "a, b = map(int, input().split())\nprint(f'{a / b:.6f}')"),
    (WRONG, "a, b = map(int, input().split())\nprint(a // b)"),
    (WRONG, "a, b = map(int, input().split())\nprint(round(a / b, 12))"),
    (PASSED, "a, b = map(float, input().split())\nprint(a / b)"),
    (PASSED, "a, b = map(int, input().split())\nprint('%.16g' % (a / b))"),
]
NEAR = stdin(("1 3", "0.3333333333333333"), ("1 4", "0.25"), ("4 2", "2"), comparator="tolerant")
NEAR_PROGRAMS: Programs = [
    (PASSED, "a, b = map(int, input().split())\nprint(f'{a / b:.7f}')"),
    (PASSED, "a, b = map(int, input().split())\nprint(round(a / b, 12))"),
    (WRONG, "a, b = map(int, input().split())\nprint(f'{a / b:.4f}')"),
    (WRONG, "a, b = map(int, input().split())\nprint(a / b + 2e-6)"),
]

DEPTH = stdin(("5", "15"), ("20000", "200010000"))
DEPTH_PROGRAMS: Programs = [
    (PASSED, "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and n + f(n - 1)\nprint(f(int(input())))"),
    (
        PASSED,
        "import sys, threading\nsys.setrecursionlimit(1 << 30)\nthreading.stack_size(1 << 26)\ndef f(n): return n and n + f(n - 1)\ndef main(): print(f(int(input())))\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    ),
    (PASSED, "n = int(input())\nprint(n * (n + 1) // 2)"),
    (
        PASSED,
        "from types import GeneratorType\ndef bootstrap(f, stack=[]):\n    def inner(*args):\n        if stack: return f(*args)\n        to = f(*args)\n        while True:\n            if type(to) is GeneratorType:\n                stack.append(to)\n                to = next(to)\n            else:\n                stack.pop()\n                if not stack: return to\n                to = stack[-1].send(to)\n    return inner\n@bootstrap\ndef f(n):\n    if n == 0: yield 0\n    below = yield f(n - 1)\n    yield n + below\nprint(f(int(input())))",
    ),
    (
        PASSED,
        "import functools, sys\nsys.setrecursionlimit(10 ** 5)\n@functools.cache\ndef f(n): return 0 if n == 0 else n + f(n - 1)\nn = int(input())\nfor i in range(0, n, 500): f(i)\nprint(f(n))",
    ),
    (RAISES, "def f(n): return n and n + f(n - 1)\nprint(f(int(input())))"),
    (WRONG, "n = int(input())\nprint(sum(range(n)))"),
]

STYLES = stdin(("2 3", "5"), ("10 -4", "6"))
STYLES_PROGRAMS: Programs = [
    (
        PASSED,
        "def main():\n    a, b = map(int, input().split())\n    print(a + b)\nif __name__ == '__main__':\n    main()",
    ),
    (
        PASSED,
        "def main():\n    a, b = map(int, input().split())\n    print(a + b)\nif __name__ == '__main__': main()\nx = 1",
    ),
    (
        PASSED,
        "if __name__ == '__main__':\n    def main():\n        print(sum(map(int, input().split())))\n    main()\ndone = True",
    ),
    (
        PASSED,
        "total = 0\ndef add(x):\n    global total\n    total += x\nfor x in input().split(): add(int(x))\nprint(total)",
    ),
    (
        PASSED,
        "def outer():\n    def inner():\n        global result\n        result = sum(map(int, input().split()))\n    inner()\nouter()\nprint(result)",
    ),
    (
        PASSED,
        "def outer():\n    total = 0\n    def inner(x):\n        nonlocal total\n        total += x\n    for x in input().split(): inner(int(x))\n    return total\nprint(outer())",
    ),
    (
        PASSED,
        "class Adder:\n    def __init__(self): self.total = 0\n    def __iadd__(self, x):\n        self.total += x\n        return self\n    def __str__(self): return str(self.total)\na = Adder()\nfor x in input().split(): a += int(x)\nprint(a)",
    ),
    (
        PASSED,
        "class Solution:\n    @staticmethod\n    def add(a, b): return a + b\n    @classmethod\n    def run(cls): print(cls.add(*map(int, input().split())))\nSolution.run()",
    ),
    (PASSED, "def numbers():\n    yield from map(int, input().split())\nprint(sum(numbers()))"),
    (
        PASSED,
        "def twice(f):\n    def g(*a): return f(*a)\n    return g\n@twice\ndef add(a, b): return a + b\nprint(add(*map(int, input().split())))",
    ),
    (
        PASSED,
        "from dataclasses import dataclass\n@dataclass(order=True, frozen=True)\nclass Pair:\n    a: int\n    b: int\np = Pair(*map(int, input().split()))\nprint(p.a + p.b)",
    ),
    (
        PASSED,
        "import asyncio\nasync def main():\n    a, b = map(int, input().split())\n    await asyncio.sleep(0)\n    print(a + b)\nc = main()\ntry:\n    while True: c.send(None)\nexcept StopIteration: pass",
    ),
    (
        PASSED,
        "from typing import List, Optional\ndef add(xs: List[int]) -> Optional[int]: return sum(xs)\nprint(add([int(x) for x in input().split()]))",
    ),
    (PASSED, "a, b = map(int, input().split())\nmatch (a, b):\n    case (x, y): print(x + y)"),
    (PASSED, "print((lambda s: sum(map(int, s.split())))(input()))"),
    (PASSED, "import operator, functools\nprint(functools.reduce(operator.add, map(int, input().split())))"),
    (
        PASSED,
        "from collections import deque, Counter, defaultdict, OrderedDict\nq = deque(map(int, input().split()))\nprint(q.popleft() + q.pop())",
    ),
    (
        PASSED,
        "import heapq, bisect, math, itertools, string, random, re, copy, statistics, datetime\nprint(sum(map(int, re.findall(r'-?\\d+', input()))))",
    ),
    (
        PASSED,
        "line = input()\ntry:\n    a, b, c = map(int, line.split())\nexcept ValueError as e:\n    a, b = map(int, line.split())\nprint(a + b)",
    ),
    (PASSED, "a, b = map(int, input().split())\ntry: print([][0])\nexcept IndexError: print(a + b)\nfinally: pass"),
    (PASSED, "a, b = map(int, input().split())\nq, r = divmod(a + b, 7)\nprint(q * 7 + r)"),
    (PASSED, "import random\nrandom.seed(1)\na, b = map(int, input().split())\nx = random.random()\nprint(a + b)"),
    (PASSED, "a, b = map(int, input().split())\nprint(eval('a + b'))"),
    (PASSED, "from sys import *\na, b = map(int, stdin.readline().split())\nstdout.write(str(a + b))"),
    (
        PASSED,
        "import sys; input = lambda: sys.stdin.readline().rstrip('\\r\\n')\nII = lambda: map(int, input().split())\na, b = II(); print(a + b)",
    ),
    (
        PASSED,
        "import os, sys\nfrom io import BytesIO, IOBase\nclass FastIO(IOBase):\n    def __init__(self, file):\n        self._fd = file.fileno()\n        self.buffer = BytesIO()\n    def readline(self):\n        self.buffer = BytesIO(os.read(self._fd, 10 ** 5))\n        return self.buffer.readline()\nprint(sum(map(int, FastIO(sys.stdin).readline().split())))",
    ),
    (
        PASSED,
        "import threading\nresult = []\ndef work(): result.append(sum(map(int, input().split())))\nt = threading.Thread(target=work)\nt.start(); t.join()\nprint(result[0])",
    ),
    (
        PASSED,
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as pool:\n    print(sum(pool.map(int, input().split())))",
    ),
    (
        PASSED,
        "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write(input())\n    f.seek(0)\n    print(sum(map(int, f.read().split())))",
    ),
    (
        PASSED,
        "with open('scratch.txt', 'w') as f: f.write(input())\nprint(sum(map(int, open('scratch.txt').read().split())))",
    ),
    (PASSED, "import sys\nprint(sum(map(int, sys.stdin.readline().split()))) if len(sys.argv) == 1 else None"),
    (BROKEN, "\ufeffprint(sum(map(int, input().split())))"),
    (PASSED, "# -*- coding: utf-8 -*-\nsumme\u00e4 = sum(map(int, input().split()))\nprint(summe\u00e4)"),
    (PASSED, "print(sum(map(int, input().split())));"),
    (
        PASSED,
        "from __future__ import annotations\ndef f(x: Unknown) -> Missing: return sum(x)\nprint(f(map(int, input().split())))",
    ),
    (
        PASSED,
        "import json, ast\na, b = json.loads('[' + input().replace(' ', ',') + ']')\nprint(ast.literal_eval(str(a + b)))",
    ),
    (PASSED, "import warnings\nwarnings.warn('x')\nprint(sum(map(int, input().split())))"),
    (PASSED, "import time\nt = time.time()\nprint(sum(map(int, input().split())))\nassert time.time() >= t"),
    (
        PASSED,
        "a, b = map(int, input().split())\nwhile b > 0: a, b = a + 1, b - 1\nwhile b < 0: a, b = a - 1, b + 1\nprint(a)",
    ),
    (WRONG, "a, b = map(int, input().split())\nprint(a - b)"),
    (WRONG, "a, b = input().split()\nprint(a + b)"),
    (WRONG, "a, b = map(int, input().split())\nprint(abs(a) + abs(b))"),
    (WRONG, "a, b = map(int, input().split())\nprint(a, '+', b, '=', a + b)"),
    (WRONG, "def solve(a, b): return a + b\nprint(solve)"),
    (WRONG, "def add(a, b): a + b\nprint(add(*map(int, input().split())))"),
    (WRONG, "print(5)"),
    (WRONG, "import builtins\nbuiltins.print = lambda *a, **k: None\nprint(5)"),
    (
        WRONG,
        "class E(str):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\nprint(E('anything'))",
    ),
    (WRONG, "import sys\nprint(sys.stdin.read())"),
    (RAISES, "import sys\nsys.stdin.close()\nprint(sum(map(int, input().split())))"),
    (RAISES, "a, b, c = map(int, input().split())\nprint(a + b)"),
    (RAISES, "import asyncio\nasync def main(): print(5)\nasyncio.run(main()) or missing"),
    (RAISES, "print(sum(map(int, input().split())) / 0)"),
    (RAISES, "from solution import answer\nprint(answer)"),
]

BIG_INTEGERS = stdin(("100", str(3**100)), ("2000", str(3**2000)))
BIG_INTEGERS_PROGRAMS: Programs = [
    (PASSED, "print(3 ** int(input()))"),
    (PASSED, "from decimal import Decimal, getcontext\ngetcontext().prec = 1000\nprint(Decimal(3) ** int(input()))"),
    (PASSED, "n = int(input())\nx = 1\nfor _ in range(n): x *= 3\nprint(x)"),
    (WRONG, "print(3 ** int(input()) + 1)"),
    (WRONG, "print(3 ** int(input()) % (10 ** 9 + 7))"),
    (WRONG, "print(int(3.0 ** min(int(input()), 600)))"),
    (WRONG, "print(3.0 ** int(input()))"),
]


def all_cases() -> Iterator[Case]:
    """Every case of this kind."""
    yield from crossed("read", SUMS, READERS, SUMS_BODIES)
    yield from crossed("write", SQUARES, WRITERS, SQUARES_BODIES)
    yield from cases("squares", SQUARES, SQUARES_PROGRAMS)
    yield from cases("quick", QUICK, QUICK_PROGRAMS)
    yield from cases("small", SMALL, SMALL_PROGRAMS)
    yield from cases("flood", SQUARES, FLOOD_PROGRAMS)
    yield from cases("echo", ECHO, ECHO_PROGRAMS)
    yield from cases("empty", EMPTY, EMPTY_PROGRAMS)
    yield from cases("large", LARGE, LARGE_PROGRAMS)
    yield from cases("numbers", NUMBERS, NUMBERS_PROGRAMS)
    yield from cases("floats", FLOATS, FLOATS_PROGRAMS)
    yield from cases("near", NEAR, NEAR_PROGRAMS)
    yield from cases("depth", DEPTH, DEPTH_PROGRAMS)
    yield from cases("styles", STYLES, STYLES_PROGRAMS)
    yield from cases("integers", BIG_INTEGERS, BIG_INTEGERS_PROGRAMS)
