"""``@lowtide/client`` as an app uses it, beside an unmodified SDK and a real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.acceptance import scenarios
from tests.acceptance.test_oauth import Signing
from tests.acceptance.test_sessions import Sessions, command, sessions
from tests.auth.upstream import ProviderProcess
from tests.clients.test_typescript import RUNTIME
from tests.server_process import ServerProcess

__all__ = ["command", "sessions"]


def test_every_way_in_is_done_once_however_often_its_answer_is_lost(sessions: Sessions) -> None:
    """Anonymous, mail, link, password and second factor lose their first answers; wipe and end are heard."""
    seen = sessions("signing_in")
    assert seen["begin"] == {
        "same": True,
        "outcome": "upgraded",
        # Sent twice, answered alike: one user, one mail, one session.
        "anonymous": [2, 1],
        "start": [2, 1],
        "finish": [2, 1],
    }
    assert seen["wrong"] == ["invalid_grant", "authenticated"]
    assert seen["weak"] == ["password_refused", 400, "common", False]
    assert seen["password"] == "signed_in"
    assert seen["enrolled"] == [True, 10]
    assert seen["second"] == {
        "needed": ["second_factor_needed", True, "signed_out"],
        "wrong": "invalid_grant",
        "done": True,
        "bad": "invalid_grant",
        "after": "authenticated",
    }
    assert seen["account"] == {
        "name": "Ann",
        "heard": "Ann",
        "ways": [["email", "ann@example.com"]],
        "unlinked": "no error",  # there was none: it is away
        "codes": 10,
        "password": "invalid_grant",
        "changed": "no error",
        "removed": "no error",
        "passkeys": [],
        "rename": "not_found",
        "remove": "not_found",
        "device": "not_found",
        "merge": "not_retryable",
        "space": "forbidden",
        "after": ["authenticated", True],
        "others": ["not_signed_in", "signed_out"],
        "again": "signed_in",
    }
    assert seen["outside"] == {
        "text": "invalid_grant",
        "nonce": [True, 64],
        "apple": "not_found",
        "start": [404, "not_found"],
        "finish": "invalid_grant",
        "refused": "access_denied",
    }
    assert seen["link"] == {
        "given_up": "aborted",
        "chosen": 200,
        "email": "bob@example.com",
        "unheard": True,
        "again": True,
        "finish": 1,  # the same session in every answer
    }
    assert seen["linked"] == {
        "same": True,
        "ways": ["bob@example.com", "bob@work.example"],
        "taken": "identity_taken",
        "after": True,
        "nobody": ["unauthorized", "signed_out"],
    }
    assert seen["devices"] == [False, True]
    assert seen["wiped"]["user"] is True
    assert seen["wiped"]["kept"] is True
    assert not any(seen["wiped"]["content"].values())
    ended = {"code": "session_revoked", "reason": "user", "wipe": False}
    assert seen["wiped"]["state"] == {"status": "signed_out", "ended": ended}
    assert seen["deleted"] == ["signed_out", "session_revoked", True]
    assert (seen["restarted"]["there"], seen["restarted"]["wipe"]) == (1, False)
    assert not any(seen["restarted"]["content"].values())
    assert seen["others"] == "authenticated", "an unrelated session was touched"


def test_what_an_app_does_beside_sql(sessions: Sessions) -> None:
    """Calls, commands, refusals, conflicts, finishing in the background, and phones that change hands."""
    seen: dict[str, Any] = sessions("device")
    assert seen["call"] == {
        "result": {"was": "todo", "by": True},
        "again": ["conflict", "closed"],
        "sent": 4,
        "none": "not_found",
    }
    assert seen["command"] == {
        "before": "waiting",
        "nobody": "aborted",
        "was": "todo",
        "status": "done",
        "bad": {"code": "no_task", "message": "There is no such task.", "hint": "string"},
        "large": "invalid",
        "unsent": "not_found",
        "third": {"title": "Drift"},
        "unknown": "failed",
    }
    rejections = {one["record"]: one for one in seen["rejections"]}
    assert rejections["mine"] == {
        "code": "rude",
        "op": "put",
        "model": "handle",
        "record": "mine",
        "data": {"name": "rude word"},
        "metadata": None,
        "recent": True,
    }
    assert (rejections["blue"]["code"], rejections["blue"]["metadata"]) == ("forbidden", "form 7")
    assert rejections["task"]["data"] == {"approved": 1, "title": "Sailed"}
    heard = [["rude", "handle", "mine"], ["forbidden", "task", "blue"], ["server_only", "task", "task"]]
    assert seen["refused"] == heard
    assert seen["retried"] == {"left": [], "none": "not_found", "ben": True, "title": True, "same": [[], []]}
    conflict = seen["conflict"]
    assert conflict["flushed"] is True
    assert [(one["model"], one["id"], one["fields"]) for one in conflict["merged"]] == [
        ("task", "second", ["title"])
    ]
    assert conflict["lost"] == ["title", "By Anna", "By Ben", None, 1]
    assert 1 <= seen["pauses"]["asked"] <= 3
    assert seen["pauses"]["flushed"] is True
    assert seen["hanging"] == [[False, True], [False, True], True, 0]
    assert seen["left"]["leaving"] == ["unsent_changes", "1 changes were not sent yet.", "authenticated"]
    assert seen["left"]["status"] == "signed_out"
    assert not any(seen["left"]["content"].values())
    assert seen["other"] == {
        "connected": False,
        "early": "other_user",
        "flush": [False, 1],
        "after": [0, 0],
        "ben": ["carla", "mine"],
    }
    assert seen["thrown"] == ["a listener that throws"]


class OnLocalhost(ServerProcess):
    """A server whose passkeys are those of pages on its own origin."""

    def __init__(self, folder: Path):
        super().__init__(folder, scenarios.APPS["crew"], "crew")
        self.origin = f"http://localhost:{self.port}"
        self._settings["passkey_origins"] = self.origin


def test_two_tabs_share_one_session(tmp_path: Path) -> None:
    """In Chromium: a storm of refreshes, a passkey, signing out and an absent network, seen by both tabs."""
    with OnLocalhost(tmp_path / "server") as server:
        ran = subprocess.run(
            ["node", "tabs.mjs", server.origin, RUNTIME / "lowtide.js"],
            cwd=scenarios.NODE,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert server.faults() == []
    assert json.loads(ran.stdout) == {
        "empty": ["signed_out", None],
        "locks": True,
        "shared": True,
        "storm": {"none": 0, "alive": True, "devices": 1},
        "passkey": "Phone",
        "named": True,
        "twice": "not_retryable",
        "kept": None,
        "again": ["signed_in", True],
        "offline": ["network", True, "authenticated_offline", True],
        "online": [[True, False, True], "authenticated"],
        "indexed": [None, True, None],
        "faults": [],
    }


def test_a_guest_signs_in_elsewhere_and_keeps_what_they_are(tmp_path: Path) -> None:
    """A certified provider in a real browser: declined, then done, over an app that was closed, once."""
    server = Signing(tmp_path / "server", None, [])
    with ProviderProcess(f"{server.url}/v1/auth/oidc/acme/callback") as provider:
        acme = {"name": "acme", "title": "Acme", "issuer": provider.url, "client_id": "lowtide"}
        acme["client_secret"] = "a-secret: with/odd+characters%"
        server.tell(
            upstreams=json.dumps([acme]),
            egress_allowed=provider.address,
            app_redirects="https://app.example.com/in",
        )
        with server:
            seen = scenarios.run("elsewhere", server, tmp_path, given={"issuer": provider.url})
            assert server.stop() == 0
            assert server.faults() == []
    assert seen.pop("issuer") == provider.url
    assert seen == {
        "declined": ["access_denied", "authenticated"],
        "hint": "ben",
        "outcome": "upgraded",
        "same": True,
        "email": "ben@example.com",
        "asked": 2,
        "twice": "bad_callback",
        "ways": ["acme"],
    }
