"""A newcomer's first hour: ``lowtide dev`` without any setting, and the client."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance import scenarios
from tests.server_process import ServerProcess


def test_every_way_in_works_before_anything_is_set_up(tmp_path: Path) -> None:
    """Codes by mail and text message, a password, a second factor: what would be sent is in the outbox."""
    app = scenarios.APPS["crew"]
    with ServerProcess(tmp_path / "app", app, "crew", command=("-m", "lowtide", "dev")) as server:
        seen = scenarios.run("dev_sign_in", server, tmp_path)
        assert server.stop() == 130
    assert seen["email"] == ["upgraded", "ann@example.com"]
    assert seen["password"] == ["signed_in", "signed_in", True]
    assert seen["second"] == ["second_factor_needed", "signed_in"]
    assert seen["sms"] == ["signed_in", ["phone"]]
    assert seen["note"] == ["Hello"]
