"""Signals that ask a run to stop: it finishes the step, writes a checkpoint and leaves."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stop:
    """A signal that asks the run to stop: after the current step and a checkpoint."""

    asked = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)  # a second one stops at once

    def leave(self, workdir: Path, step: int) -> None:
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt(f"stopped with a checkpoint of step {step} in {workdir}")
        print(f"terminated with a checkpoint of step {step} in {workdir}; go on with --resume", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def stops() -> Iterator[Stop]:
    """Catches SIGTERM and SIGINT, where Python lets us: in the main thread."""
    stop = Stop()
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
