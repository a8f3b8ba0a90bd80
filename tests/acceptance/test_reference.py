"""The API's reference in a real browser."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance import scenarios
from tests.server_process import ServerProcess


def test_the_reference_is_read_and_searched_wherever_one_is(tmp_path: Path) -> None:
    """On a desk, on a phone in the dark, with the keyboard and without script; it asks no other host."""
    with ServerProcess(tmp_path / "server", scenarios.APPS["crew"], "crew") as server:
        seen = scenarios.run("reference", server, tmp_path)
        assert server.stop() == 0
    operations = seen.pop("operations")
    assert operations > 100
    assert [seen.pop(name) for name in ("links", "again", "opened", "plain")] == [operations] * 4
    assert "--data-urlencode 'grant_type=authorization_code'" in seen.pop("example")
    assert seen == {
        "origin": server.url,
        "wide": False,
        "byField": ["#oauth_token"],
        "went": "#oauth_token",
        "nothing": [0, True],
        "narrow": False,
        "closed": 0,
        "elsewhere": [],
        "faults": [],
    }
