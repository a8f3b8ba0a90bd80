"""Power cuts, where the machine allows them."""

from __future__ import annotations

import sys

import pytest

from tests.crash import __main__ as command
from tests.crash import power

if power.possible():

    def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
        """After each cut every acknowledged transaction is there once, and the rest can be sent again."""
        for seed in range(2):
            cut = power.cut(seed)
            assert cut.acknowledged > 10
            assert cut.lost == 0

    def test_the_power_cut_catches_a_server_that_does_not_sync() -> None:
        """The control: with synchronous=NORMAL acknowledged transactions are lost, and it is seen."""
        assert any(power.cut(seed, fault="loses_power").lost for seed in range(5))


def test_a_machine_without_power_cuts_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody takes a run without power cuts for one that passed."""
    monkeypatch.setattr(power, "possible", lambda: False)
    monkeypatch.setattr(sys, "argv", ["tests.crash", "--power-cuts", "3"])
    assert command.main() == 1
    assert "not possible here" in capsys.readouterr().err
