"""The two files by which Apple's and Google's systems see that an app and a site belong together.

Without them a phone offers no passkey of the site in the app, and opens its links in the browser. Both are
fetched without a token, from the host that is the passkeys' ``rp_id``, as JSON and without a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from lowtide.kernel.base64url import encode
from lowtide.kernel.errors import SetupError
from lowtide.kernel.http import Request, Response, Route

ASSET_LINKS = "/.well-known/assetlinks.json"
APP_SITE = "/.well-known/apple-app-site-association"

_PACKAGE = re.compile(r"[A-Za-z][\w]*(\.[A-Za-z][\w]*)+", re.ASCII)
_DIGEST = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){31}")
_APPLE = re.compile(r"[A-Z0-9]{10}\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


class AndroidApp(msgspec.Struct, frozen=True):
    """An Android app: its package, and the SHA-256 of one certificate that signs it, as ``AB:CD:...``."""

    package: str
    certificate: str

    @property
    def origin(self) -> str:
        """What Android's Credential Manager gives as the origin of this app's passkeys."""
        digest = bytes.fromhex(self.certificate.replace(":", ""))
        return f"android:apk-key-hash:{encode(digest)}"


def read_android_apps(texts: Iterable[str]) -> tuple[AndroidApp, ...]:
    """The apps in the setting ``android_apps``. Raises ``SetupError``."""
    found = []
    for text in texts:
        package, _, certificate = text.partition("=")
        certificate = certificate.upper()
        if _PACKAGE.fullmatch(package) is None or _DIGEST.fullmatch(certificate) is None:
            raise SetupError(
                f"Setting 'android_apps' holds {text!r}.",
                hint="Write package=AB:CD:... with the SHA-256 of the certificate that signs the app.",
            )
        found.append(AndroidApp(package, certificate))
    return tuple(found)


def check_apple_apps(texts: Iterable[str]) -> tuple[str, ...]:
    """The app ids in the setting ``apple_apps``. Raises ``SetupError``."""
    for text in texts:
        if _APPLE.fullmatch(text) is None:
            raise SetupError(
                f"Setting 'apple_apps' holds {text!r}.",
                hint="Write the team's id, a dot and the bundle's id: ABCDE12345.com.example.app.",
            )
    return tuple(texts)


def asset_links(apps: Iterable[AndroidApp]) -> list[dict[str, Any]]:
    """Digital Asset Links: these apps open this site's links, and use its passkeys and passwords."""
    certificates: dict[str, list[str]] = {}
    for app in apps:
        certificates.setdefault(app.package, []).append(app.certificate)
    return [
        {
            "relation": [
                "delegate_permission/common.handle_all_urls",
                "delegate_permission/common.get_login_creds",
            ],
            "target": {
                "namespace": "android_app",
                "package_name": package,
                "sha256_cert_fingerprints": prints,
            },
        }
        for package, prints in certificates.items()
    ]


def app_site_association(apps: Iterable[str], paths: Iterable[str]) -> dict[str, Any]:
    """Apple's file: these apps use this site's passkeys, and open its links that match ``paths``."""
    ids = list(apps)
    links = [{"appIDs": ids, "components": [{"/": path} for path in paths]}] if ids else []
    return {"applinks": {"details": links}, "webcredentials": {"apps": ids}}


def well_known_routes(
    android: Iterable[AndroidApp], apple: Iterable[str], paths: Iterable[str]
) -> list[Route]:
    """The addresses of the two files; cached for an hour, readable from every page."""
    headers = {"cache-control": "public, max-age=3600", "cross-origin-resource-policy": "cross-origin"}
    links, association = asset_links(android), app_site_association(apple, paths)

    async def get_links(_: Request[None, None]) -> Response:
        """Google's file: which Android apps belong to this site."""
        return Response(body=links, headers=headers)

    async def get_association(_: Request[None, None]) -> Response:
        """Apple's file: which apps belong to this site."""
        return Response(body=association, headers=headers)

    return [
        Route(
            "GET",
            ASSET_LINKS,
            get_links,
            auth="none",
            response=list[dict[str, Any]],
            summary="The Android apps of this site",
            tags=("apps",),
        ),
        Route(
            "GET",
            APP_SITE,
            get_association,
            auth="none",
            response=dict[str, Any],
            summary="The Apple apps of this site",
            tags=("apps",),
        ),
    ]
