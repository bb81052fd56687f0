"""Ctrl-C, SIGTERM and a closed terminal, taken at safe points instead of anywhere.

A handler that raises could strike between starting a process and noting it; here a signal only sets a flag, and the
loops that wait ask for it.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked us to stop. `exit_code` is what shells expect for it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """Catches the signals inside its `with` block, but for those the caller has us ignore, as nohup does."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self._received:
            raise Stopped(self._received[0])

    def hurry(self) -> bool:
        """Whether a second signal came: stop waiting and kill."""
        return len(self._received) > 1

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)
