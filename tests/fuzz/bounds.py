"""What every fuzz test shares: how long it looks, and how work is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings

from lowtide.kernel.errors import LowtideError

thorough = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""The same examples in every run; time is not measured, because machines differ: see ``steps``."""


def answers(call: Callable[[], Any], *errors: type[LowtideError]) -> Any:
    """What ``call`` returns, or the one of ``errors`` that it raised; any other exception goes on."""
    try:
        return call()
    except errors as error:
        return error


def steps(call: Callable[[], Any]) -> int:
    """Lines of Python that ``call`` runs, whatever it raises: time that is the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except LowtideError:
        pass
    finally:
        sys.settrace(before)
    return count


def is_linear(make: Callable[[int], Callable[[], Any]], size: int, slack: int = 200) -> bool:
    """Does twice the input take about twice the steps, and not four times?"""
    return steps(make(2 * size)) <= 2.5 * steps(make(size)) + slack
