"""A thousand clients at once, half of them with endless loops: no false verdict, and every request is answered.

    .venv/bin/python -m bench.sandbox_load [CLIENTS [QUEUE_LIMIT]]        # default: 1000, and room for 300

Each client asks once, by real HTTP, about a right program, a wrong one or an endless loop; one that is answered 429
comes back after `Retry-After`. Exits with 1 if a verdict is false or a request fails.
"""

from __future__ import annotations

import asyncio
import sys

from bench.sandbox_service import Case, Outcome, ask_all, describe, service
from shared.connections import allow_descriptors

RIGHT = Case("print(input())", 1.0, "Passed")
WRONG = Case("print(8)", 0.0, "Wrong answer")
ENDLESS = Case("while True: pass", 0.0, "Time limit", time_limit_s=0.2)


def main() -> None:
    """Print what became of a thousand requests without loops, and of a thousand with."""
    clients, queue_limit = (int(given) for given in [*sys.argv[1:], *("1000", "300")[len(sys.argv) - 1 :]])
    for name, mix in (("right and wrong", [RIGHT, WRONG]), ("half endless", [RIGHT, ENDLESS, WRONG, ENDLESS])):
        outcome = load(clients, queue_limit, mix)
        print(f"{clients} clients at once, queue of {queue_limit}, {name}:\n{describe(outcome)}")
        if outcome.wrong or outcome.answered < clients:
            sys.exit(1)


def load(clients: int, queue_limit: int, mix: list[Case]) -> Outcome:
    """What becomes of `clients` requests at once, with the cases of `mix` in turn."""
    allow_descriptors()
    with service(queue_limit=queue_limit) as url:
        cases = [mix[number % len(mix)] for number in range(clients)]
        return asyncio.run(ask_all(url, cases, batch=1, clients=clients))


if __name__ == "__main__":
    main()
