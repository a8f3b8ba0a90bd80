"""Old versions of the app: told to update, and never kept from giving up what they hold."""

from __future__ import annotations

import pytest

from lowtide.api.versions import read_versions
from lowtide.kernel.errors import AppTooOld, SetupError
from lowtide.kernel.http import Route
from tests.api.client import Client
from tests.api.edges import Handlers, build

STORE = "https://apps.apple.com/app/id1"
VERSIONS = read_versions([f"ios 2.1.0 {STORE}", "android v3"])


@pytest.mark.parametrize(
    "header",
    [
        b"ios/2.0.9", b"ios/2.0.99 (9999)", b"iOS/1", b"ios/2.0.9.9", b"ios/v2.0", b"ios/2.0.0-beta.3",
        b"android/2.99", b"ios/0", b"ios/2.0.9+build.7 (12)",
    ],
)  # fmt: skip
def test_an_older_version_is_refused(header: bytes) -> None:
    """Numbers are compared one by one, and missing ones are zero."""
    with pytest.raises(AppTooOld) as caught:
        VERSIONS.check(header)
    if header.lower().startswith(b"ios"):
        assert caught.value.details == {"platform": "ios", "minimum": "2.1.0", "store": STORE}


@pytest.mark.parametrize(
    "header",
    [
        None, b"ios/2.1.0", b"ios/2.1", b"ios/2.1.0.0 (1)", b"ios/2.10", b"ios/10.0", b"android/3",
        b"android/3.0.1", b"web/0.1", b"", b"ios", b"ios/", b"ios/x", b"ios/1.2.3.4.5", b"1.0", b"ios/1;q=1",
        b"ios/" + b"9" * 5_000, b"ios/1\xff", b"ios/2.1.0-beta.1",
    ],
)  # fmt: skip
def test_whatever_else_passes(header: bytes | None) -> None:
    """A version that is new enough, another platform, and what cannot be read: nobody is locked out."""
    VERSIONS.check(header)


@pytest.mark.parametrize("said", [None, 1, True, ["ios/1"], {"ios": 1}, "", "ios", "\ud800", "ios/2.1"])
def test_what_an_app_says_in_a_body_may_be_anything(said: object) -> None:
    """Any JSON; only a version that is too old is refused."""
    VERSIONS.check_said(said)
    with pytest.raises(AppTooOld):
        VERSIONS.check_said("ios/2.0.3 (1207)")


@pytest.mark.parametrize(
    "text",
    ["ios", "ios two", "ios 2 http://plain.example", "ios 1.2.3.4.5", "ios 1..2", "2.1", "ios 1 a b"],
)
def test_a_wrong_setting_is_told(text: str) -> None:
    """A typing mistake does not let every version in."""
    with pytest.raises(SetupError, match="min_app_versions"):
        read_versions([text])


def test_a_platform_is_named_once() -> None:
    """Of two minimums nobody would know which counts."""
    with pytest.raises(SetupError):
        read_versions(["ios 1", "ios 2"])


@pytest.mark.anyio
async def test_an_old_app_can_still_give_up_what_it_holds() -> None:
    """Reads are refused with the store's address; uploads and everything about the sign-in are answered."""
    handlers = Handlers()
    routes = [
        Route("POST", "/v1/sync/batches", handlers.nothing, body=bytes, consumes=("*/*",), old_apps=True),
        Route("DELETE", "/v1/auth/me", handlers.nothing),
        Route("POST", "/v1/auth/sign-out", handlers.nothing),
    ]
    client = Client(
        build(handlers, *routes, versions=VERSIONS),
        {"x-app-version": "ios/2.0 (7)", "authorization": "Bearer ann"},
    )
    refused = await client.get("/notes")
    assert refused.status == 426
    assert refused.code == "app_too_old"
    assert (refused.json()["store"], refused.json()["minimum"]) == (STORE, "2.1.0")
    assert "upgrade" not in refused.headers
    assert handlers.requests == []
    assert (await client.post("/v1/sync/batches", body=b"x")).status == 204
    assert (await client.request("DELETE", "/v1/auth/me")).status == 204
    assert (await client.post("/v1/auth/sign-out")).status == 204
    assert (await client.get("/open")).status == 204
    assert (await client.get("/health/live")).status == 200
    assert (await client.get("/notes", headers={"x-app-version": "ios/2.1"})).status == 200
    assert (await client.get("/notes", headers={"x-app-version": "web/0.1"})).status == 200


@pytest.mark.anyio
async def test_the_header_is_given_once() -> None:
    """Two versions in one request are refused, not chosen between."""
    client = Client(build(Handlers(), versions=VERSIONS))
    headers = [("x-app-version", "ios/9"), ("x-app-version", "ios/1"), ("authorization", "Bearer ann")]
    assert (await client.get("/notes", headers=headers)).status == 400
