"""The files by which phones see that an app and a site belong together."""

from __future__ import annotations

import hashlib

import pytest

from lowtide.auth.wellknown import check_apple_apps, read_android_apps, well_known_routes
from lowtide.kernel.errors import SetupError
from tests.api.client import Client
from tests.api.edges import Handlers, build

CERTIFICATE = hashlib.sha256(b"certificate").digest()
PRINT = ":".join(f"{byte:02X}" for byte in CERTIFICATE)
OTHER = ":".join(f"{byte:02X}" for byte in hashlib.sha256(b"other").digest())


def client(android: tuple[str, ...], apple: tuple[str, ...] = ()) -> Client:
    routes = well_known_routes(read_android_apps(android), check_apple_apps(apple), ("/a/*",))
    return Client(build(Handlers(), *routes))


@pytest.mark.anyio
async def test_android_finds_its_apps() -> None:
    """assetlinks.json names each package once, with all its certificates, for links and for credentials."""
    apps = (f"com.example.app={PRINT}", f"com.example.app={OTHER.lower()}", f"com.example.beta={PRINT}")
    answer = await client(apps).get("/.well-known/assetlinks.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    first, second = answer.json()
    assert first["relation"] == [
        "delegate_permission/common.handle_all_urls",
        "delegate_permission/common.get_login_creds",
    ]
    assert first["target"] == {
        "namespace": "android_app",
        "package_name": "com.example.app",
        "sha256_cert_fingerprints": [PRINT, OTHER],
    }
    assert second["target"]["package_name"] == "com.example.beta"


@pytest.mark.anyio
async def test_apple_finds_its_apps() -> None:
    """Apple's file is JSON without a suffix or a redirect: the apps' links, and their credentials."""
    answer = await client((), ("ABCDE12345.com.example.app",)).get("/.well-known/apple-app-site-association")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "applinks": {"details": [{"appIDs": ["ABCDE12345.com.example.app"], "components": [{"/": "/a/*"}]}]},
        "webcredentials": {"apps": ["ABCDE12345.com.example.app"]},
    }


@pytest.mark.anyio
async def test_a_site_without_apps_says_so() -> None:
    """Without settings both files are there, and name nobody."""
    assert (await client(()).get("/.well-known/assetlinks.json")).json() == []
    answer = await client(()).get("/.well-known/apple-app-site-association")
    assert answer.json() == {"applinks": {"details": []}, "webcredentials": {"apps": []}}


def test_an_android_app_has_an_origin() -> None:
    """Credential Manager's origin is the digest of the certificate, as base64url without padding."""
    (app,) = read_android_apps([f"com.example.app={PRINT}"])
    assert app.origin.startswith("android:apk-key-hash:")
    assert len(app.origin) == len("android:apk-key-hash:") + 43
    assert "=" not in app.origin


@pytest.mark.parametrize(
    "text",
    ["", "com.example.app", f"app={PRINT}", f"com.example.app={PRINT[:-3]}", f"com.example.app={PRINT}:00"],
)
def test_an_android_app_that_cannot_be_is_found_at_start(text: str) -> None:
    """A package without a dot, no certificate, or a digest of another length: a mistake of the operator."""
    with pytest.raises(SetupError, match="android_apps"):
        read_android_apps([text])


@pytest.mark.parametrize(
    "text", ["", "com.example.app", "abcde12345.com.example.app", "ABCDE12345.", "ABCDE12345"]
)
def test_an_apple_app_that_cannot_be_is_found_at_start(text: str) -> None:
    """An app id without a team's id in front is a mistake of the operator."""
    with pytest.raises(SetupError, match="apple_apps"):
        check_apple_apps([text])
