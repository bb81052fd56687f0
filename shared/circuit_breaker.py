"""A circuit breaker: after several failures in a row, stop asking for a while, then try once.

It counts calls and knows nothing of what is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal


class CircuitBreaker:
    """Closed until `failures` calls in a row have failed; then open for `cooldown_s` seconds; then half-open: one
    call is let through, and its outcome closes the circuit or opens it again, each time for twice as long, at most
    `longest_cooldown_s`."""

    def __init__(
        self,
        *,
        failures: int = 3,
        cooldown_s: float = 10.0,
        longest_cooldown_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = failures
        self._first_cooldown_s = self._cooldown_s = cooldown_s
        self._longest_cooldown_s = longest_cooldown_s
        self._clock = clock
        self._failed_in_a_row = 0
        self._open_until: float | None = None

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """Whether calls are let through, are not, or the next one is to try."""
        if self._open_until is None:
            return "closed"
        return "open" if self.retry_in_s() > 0 else "half-open"

    def allow(self) -> bool:
        """Whether a call may be made now; a half-open circuit lets one through for each cool-down."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        self._cooldown_s = min(2 * self._cooldown_s, self._longest_cooldown_s)
        self._open_until = self._clock() + self._cooldown_s
        return True

    def succeeded(self) -> None:
        """Report a call that worked."""
        self._failed_in_a_row = 0
        self._cooldown_s = self._first_cooldown_s
        self._open_until = None

    def failed(self) -> None:
        """Report a call that did not."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._threshold:
            self._open_until = self._clock() + self._cooldown_s

    def retry_in_s(self) -> float:
        """Seconds until an open circuit lets a call through; 0 when it is closed."""
        return max(0.0, self._open_until - self._clock()) if self._open_until is not None else 0.0
