"""Pages of other sites: what a browser lets their scripts do, told over HTTP."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import ORIGIN, Besieged

STRANGERS = (
    "null",
    "",
    "*",
    "https://evil.example",
    "http://app.example.com",
    "https://app.example.com.evil.example",
    "https://app.example.com:8443",
    "https://app.example.com/",
    "https://APP.example.com",
    "https://evilapp.example.com",
    "https://app.example.com@evil.example",
    "https://app.example.com%00.evil.example",
    "https://app.example.com evil.example",
    "https://app-example.com",
    "https://appxexample.com",
    "https://evil.example/https://app.example.com",
    "http://localhost.evil.example",
    "http://localhost:1.evil.example",
    "http://localhost:",
    "http://localhost:1@evil.example",
    "https://localhost:1",
    "http://127.0.0.1:1",
    "file://",
    "chrome-extension://abc",
)
ADDRESSES = (
    ("GET", "/v1/auth/me", True),
    ("GET", "/v1/auth/me", False),
    ("GET", "/v1/none", True),
    ("GET", "/.well-known/openid-configuration", False),
    ("POST", "/v1/auth/token/refresh", False),
)


def granted(headers: dict[str, str]) -> dict[str, str]:
    """What an answer lets other sites do."""
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", STRANGERS)
def test_a_stranger_may_read_nothing(besieged: Besieged, origin: str) -> None:
    """No answer of any kind grants anything to an origin that is not listed, with a good token either."""
    for method, target, signed in ADDRESSES:
        headers = {"Origin": origin} | ({"Authorization": f"Bearer {besieged.ann.token}"} if signed else {})
        answer = besieged.ask(method, target, headers)
        assert granted(answer.headers) == {}, target
        assert "Origin" in answer.headers["vary"]
        headers |= {"Access-Control-Request-Method": method}
        asked = {"Access-Control-Request-Headers": "authorization"}
        preflight = besieged.ask("OPTIONS", target, headers | asked)
        assert granted(preflight.headers) == {}, target


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:5173"])
def test_a_listed_page_is_named_and_never_has_credentials(besieged: Besieged, origin: str) -> None:
    """It is echoed exactly, in answers, refusals and preflights; cookies are never invited."""
    for method, target, signed in ADDRESSES:
        headers = {"Origin": origin} | ({"Authorization": f"Bearer {besieged.ann.token}"} if signed else {})
        preflight = {
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization",
        }
        for answer in (
            besieged.ask(method, target, headers),
            besieged.ask("OPTIONS", target, headers | preflight),
        ):
            grants = granted(answer.headers)
            assert grants["access-control-allow-origin"] == origin
            assert "access-control-allow-credentials" not in grants
            assert "set-cookie" not in answer.headers
