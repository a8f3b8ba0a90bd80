"""Phones with an unmodified client SDK that sign in for real, to the end of sessions and accounts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import scenarios
from tests.acceptance.test_oauth import Signing

Sessions = Callable[..., Any]
HASTY = ("-m", "tests.acceptance.hasty")
"""Access tokens of two seconds instead of ten minutes."""


@pytest.fixture
def command() -> tuple[str, ...]:
    """What serves."""
    return ("-m", "lowtide", "serve")


@pytest.fixture
def sessions(
    database: Callable[[], str | None], command: tuple[str, ...], tmp_path: Path
) -> Iterator[Sessions]:
    """Runs a scenario on a server of its own that mails to the scenario."""
    with Signing(tmp_path / "server", database(), [], command=command) as server:
        yield functools.partial(scenarios.run, server=server, folder=tmp_path, given={"smtp": server.smtp})
        assert server.stop() == 0, server.log()[-4000:]
        assert server.faults() == []


@pytest.mark.parametrize("command", [HASTY])
def test_phones_stay_signed_in_whatever_the_network_does(sessions: Sessions) -> None:
    """Anonymous, upgraded in mid-sync, past many tokens' ends, over a lost refresh and an app's restart."""
    seen = sessions("sessions")
    assert (seen["began"], seen["outcome"]) == (True, "upgraded")
    assert seen["same"] == {"user": True, "session": True}
    assert all(1 <= count < 20 for count in seen["refreshed"].values()), seen["refreshed"]
    assert seen["late"] == "token_expired"
    # The same request each time, and each time the same child.
    requests = {lost["sent"] for lost in seen["lost"]} | {seen["repeat"]["sent"]}
    (request,) = requests
    assert len(json.loads(request)["rotation_id"]) >= 16
    children = {lost["refresh_token"] for lost in seen["lost"]} | {seen["repeat"]["refresh_token"]}
    assert len(children) == 1
    assert None not in children
    assert seen["waiting"] == 1
    # The app sees who is signed in, without the network, and an error that says that it will pass.
    assert seen["offline"] == seen["started"] == {"status": "authenticated_offline", "user": True}
    assert seen["error"] == {"ours": True, "code": "network", "retryable": True}
    assert seen["states"] == ["authenticated", "authenticated"], "somebody was signed out"
    assert seen["me"] == {"id": True, "email": "anna@example.com", "anonymous": False}
    expected = {"anonymous", "offline", "last", *map(str, range(12))}
    assert {row["id"] for row in seen["anna"]["task"]} == expected
    assert seen["anna"]["task"] == seen["ben"]["task"]
    assert not seen["anna"]["lowtide_rejections"] + seen["ben"]["lowtide_rejections"]


@pytest.mark.parametrize("transport", ["HTTP", "WEB_SOCKET"])
def test_a_phone_that_is_signed_out_elsewhere_stops_and_keeps_its_queue(
    sessions: Sessions, transport: str
) -> None:
    """Stream and uploads end with 401 at once, others go on; signed in again, the queue goes out."""
    seen = sessions("session_ended", transport=transport)
    assert (seen["outcome"], seen["same"], seen["ending"]) == ("signed_in", True, 1)
    assert seen["streamed"] < 3000, "the stream went on"
    assert {"status": 401, "code": "session_revoked"} in seen["uploads"] or {
        "status": 0,
        "code": "not_signed_in",
    } in seen["uploads"]
    assert {"status": 200, "code": ""} not in seen["uploads"]
    assert seen["ended"] == {"code": "session_revoked", "reason": "user", "wipe": False, "user": True}
    for problem in (seen["refused"], seen["refresh"]):
        assert (problem["status"], problem["code"], problem["reason"]) == (401, "session_revoked", "user")
        assert problem["wipe"] is False
    assert seen["queue"] == {"before": 2, "rows": [{"id": "kept"}, {"id": "more"}, {"id": "sent"}]}
    assert seen["shows"] == [{"id": "after"}, {"id": "sent"}], "a change arrived after the end"
    assert seen["refusals"] == 0


def test_what_a_guest_wrote_offline_arrives_under_the_account_it_became(sessions: Sessions) -> None:
    """A queue of the anonymous id goes out after the merge as the user's own, once, and nobody else's."""
    seen = sessions("merged")
    assert (seen["outcome"], seen["guest"], seen["other"], seen["became"]) == ("signed_in", True, True, True)
    assert (seen["early"], seen["held"]) == ("other_user", 3), "a guest's change went out as another's"
    assert (seen["records"], seen["left"]) == (2, [])  # a note and a membership
    assert seen["merges"] == {"count": 2, "same": True}
    assert seen["over"] is None
    assert seen["queued"] == 3
    assert seen["stale"] == "token_expired"
    assert seen["old"] is True, "the guest's refresh token does not bring the user's tokens"
    expected = {"desk": "From the desk", "sent": "Changed offline", "offline": "Offline", "after": "After"}
    for name in ("phone", "desk"):
        notes = seen[name]["note"]
        assert {row["id"]: row["body"] for row in notes} == expected
        assert {row["user_id"] for row in notes} == {seen["user"]}
        assert seen[name]["lowtide_rejections"] == []
    assert seen["phone"]["task"] == seen["desk"]["task"]
    assert [row["title"] for row in seen["desk"]["task"]] == ["Offline"]
    assert seen["stranger"] == {"before": [], "after": []}
    assert seen["refused"] == 0
