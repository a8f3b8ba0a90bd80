"""A certified OpenID client and a real browser against a real server, on both databases."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance import scenarios
from tests.auth.upstream import ProviderProcess
from tests.docs.pages import DOCS, blocks
from tests.server_process import ServerProcess


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clients(secret: str) -> list[dict[str, Any]]:
    """The app itself, somebody else's, and a server's."""
    back = {"redirect_uris": ["http://127.0.0.1/cb"]}
    scopes = ["openid", "email", "offline_access", "api"]
    left = {"post_logout_redirect_uris": ["http://127.0.0.1/bye"]}
    return [
        {"id": "app", "name": "Crew", "first_party": True, "scopes": scopes, **back, **left},
        {"id": "other", "name": "Tide Tables", **back},
        {
            "id": "server",
            "name": "Reports",
            "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
            **back,
        },
    ]


class Signing(ServerProcess):
    """A server that knows its clients, and mails to a port of this machine."""

    def __init__(
        self,
        folder: Path,
        postgres: str | None,
        known: list[dict[str, Any]] | None = None,
        *,
        command: tuple[str, ...] = ("-m", "lowtide", "serve"),
    ):
        self.smtp, self.secret = free_port(), secrets.token_urlsafe(32)
        settings = {
            "smtp_url": f"smtp://127.0.0.1:{self.smtp}?tls=none",
            "mail_from": "Crew <no-reply@crew.example>",
            "clients": json.dumps(clients(self.secret) if known is None else known),
        }
        app = scenarios.APPS["crew"]
        super().__init__(folder, app, "crew", postgres=postgres, settings=settings, command=command)
        self._settings["public_url"] = self.url

    def tell(self, **settings: str) -> None:
        """Settings, before the start."""
        self._settings |= settings


def test_a_certified_client_signs_its_users_in(database: Callable[[], str | None], tmp_path: Path) -> None:
    """Discovery, code and PKCE, PAR, refresh, DPoP with a wrong clock, consent, and every way to the end."""
    with Signing(tmp_path / "server", database()) as server:
        given = {"smtp": server.smtp, "secret": server.secret}
        seen = scenarios.run("oauth", server, tmp_path, given=given)
        assert server.stop() == 0
        assert server.faults() == []
    claims = ["amr", "at_hash", "aud", "auth_time", "exp", "iat", "iss", "nonce", "sid", "sub"]
    assert seen["first"] == {"type": "bearer", "claims": claims, "scope": "openid email offline_access"}
    assert {**seen["userinfo"], "sub": ""} == {"sub": "", "email": "ann@example.com", "email_verified": True}
    assert seen["refreshed"] == [True, True]
    assert seen["rotated"] == 3
    assert seen["pushed"] is True
    for bound in seen["bound"]:
        assert bound == {
            "type": "dpop",
            "who": True,
            "used": 200,
            "stolen": 401,
            "thief": "invalid_dpop_proof",
            "alone": "invalid_dpop_proof",
        }
    assert len(seen["bound"]) == 2
    assert seen["wants"] == 3
    assert seen["other"] == {"sub": True, "records": 403}
    assert seen["refused"] == "access_denied"
    mine = {"active": True, "client_id": "server", "sub": True}
    assert seen["introspected"] == {"own": mine, "refresh": mine, "foreign": {"active": False, "sub": False}}
    assert seen["revoked"] == "invalid_grant"
    assert seen["others"] is True
    assert seen["left"] == "/bye?state=left"
    assert seen["after"] == {"silent": "login_required", "refresh": "invalid_grant"}
    assert seen["wrong"] == "The address or the password is wrong."
    assert seen["again"].startswith("The code is wrong")
    assert seen["second"]["ben"] is True
    assert set(seen["second"]["amr"]) == {"otp", "recovery", "mfa"}
    assert seen["faults"] == []


def test_the_page_signs_in_with_a_passkey_and_with_an_outside_provider(
    database: Callable[[], str | None], tmp_path: Path
) -> None:
    """Both in a real browser, back into the same request; what an app may do is seen and withdrawn there."""
    server = Signing(tmp_path / "server", database())
    # Passkeys are made for localhost, which is another origin than 127.0.0.1.
    url = f"http://localhost:{server.port}"
    with ProviderProcess(f"{url}/v1/auth/oidc/acme/callback") as provider:
        acme = {"name": "acme", "title": "Acme & Co", "issuer": provider.url, "client_id": "lowtide"}
        secret = {"client_secret": "a-secret: with/odd+characters%"}
        allowed = provider.address
        server.tell(public_url=url, upstreams=json.dumps([acme | secret]), egress_allowed=allowed)
        with server:
            given = {"smtp": server.smtp, "url": url, "issuer": provider.url}
            seen = scenarios.run("oauth_ways", server, tmp_path, given=given)
            assert server.stop() == 0
            assert server.faults() == []
    policy = seen.pop("policy")
    assert "default-src 'none'" in policy
    assert policy.endswith(f"; script-src {url}/v1/oauth/passkeys.js")
    assert "unsafe" not in policy
    assert seen == {
        "offered": True,
        "field": "username webauthn",
        "misfits": {"light": [], "apps": []},
        "unverified": ["No passkey was used. Try again, or choose another way.", 0],
        "passkey": {"ann": True, "amr": ["hwk", "user"]},
        "hidden": "none",
        "declined": ["You were not signed in there.", 0],
        "elsewhere": True,
        "hint": "ben",
        "outside": {"email": "ben@example.com"},
        "way": 1,
        "apps": ["Crew", "Tide Tables"],
        "withdrawn": "That is withdrawn.",
        "left": ["Crew"],
        "refused": "invalid_grant",
        "kept": True,
        "faults": [],
    }


def test_the_pages_program_signs_its_user_in(tmp_path: Path) -> None:
    """The clients of docs/oauth.md are known to a server, and its program ends as it says."""
    page = {block.words: block.text for block in blocks(DOCS / "oauth.md") if block.words}
    known = tomllib.loads(page["oauth-clients",])["clients"]
    with Signing(tmp_path / "server", None, known) as server:
        given = {"smtp": server.smtp, "program": page["oauth-app",]}
        seen = scenarios.run("oauth_page", server, tmp_path, given=given)
        assert server.faults() == []
    assert seen == {"code": 0, "said": ["Signed in as ann@example.com", "Good for 600 seconds more"]}
