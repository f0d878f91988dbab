"""Requests to stop, for long work that knows nothing of runs and signals: it asks between its parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SECONDS_BETWEEN_CHECKS = 1.0
"""How often work that waits asks whether to stop."""

_should_stop: ContextVar[Callable[[], bool]] = ContextVar("should_stop", default=lambda: False)


@contextmanager
def stopping_if(should_stop: Callable[[], bool]) -> Iterator[None]:
    """Inside this context, make `leave_if_asked` leave if `should_stop` says so. Other threads are not affected."""
    token = _should_stop.set(should_stop)
    try:
        yield
    finally:
        _should_stop.reset(token)


def leave_if_asked() -> None:
    """Raise KeyboardInterrupt if the work of this thread should stop (see `stopping_if`)."""
    if _should_stop.get()():
        raise KeyboardInterrupt
