"""What the fuzz tests measure with can tell good from bad."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lowtide.kernel.errors import Malformed
from tests.fuzz.bounds import answers, is_linear


def slow(n: int) -> Callable[[], object]:
    def work() -> None:
        for _ in range(n):
            for _ in range(n):
                pass

    return work


def quick(n: int) -> Callable[[], object]:
    return lambda: [re.escape("x") for _ in range(n)]


def test_a_square_is_noticed() -> None:
    """Work that grows with the square of its input is not linear; work that grows with it is."""
    assert not is_linear(slow, 50)
    assert is_linear(quick, 50)


def test_an_undocumented_error_goes_on() -> None:
    """Only the named errors are answers."""

    def call() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        answers(call, Malformed)
