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


def test_a_guest_in_a_browser_becomes_who_they_are_with_what_they_wrote_offline(tmp_path: Path) -> None:
    """A reload without a network, a merge with queued writes, a sign-out that throws nothing away unasked."""
    app = scenarios.APPS["crew"]
    with ServerProcess(tmp_path / "app", app, "crew", command=("-m", "lowtide", "dev")) as server:
        seen = scenarios.run("web_account", server, tmp_path)
        assert server.stop() == 130
    assert seen["upgraded"] == "upgraded"
    assert seen["waits"] == [1, True]
    assert seen["signed"] == ["signed_in", "dora@example.com", True]
    assert seen["before"] == ["desk"], "a guest's note was shown to somebody else"
    assert seen["owners"] == 1
    assert seen["kept"] == "unsent_changes"
    assert seen["out"] == "signed_out"
    assert seen["left"] == []
    assert seen["desk"] == ["desk", "offline"]
