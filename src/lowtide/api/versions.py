"""The oldest version of the app that this server still serves, per platform.

An app says what it is in ``X-App-Version: ios/2.4.1 (1207)``: the platform, the version, and a build number
that is not compared. A client SDK, which sends no such header, says the same in the body of its download. An
app that is too old is answered 426 with the address of its store, but may still do what loses nothing: upload
what it holds, refresh and end its sign-in, export and delete the account.

RFC 9110 wants an Upgrade header with 426. There is none: behind a proxy that speaks HTTP/2, where that header
is forbidden, Apple's networking would drop the whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from lowtide.kernel.errors import AppTooOld, SetupError

HEADER = b"x-app-version"
PARTS = 4

_SETTING = re.compile(r"([a-z0-9_-]{1,32}) +v?([0-9][0-9.]{0,40})(?: +(https://\S{1,500}))?")
_SENT = re.compile(
    rb"([A-Za-z0-9_-]{1,32})/v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})"
    rb"(?:[-+][0-9A-Za-z.+-]{1,64})?(?: *\([^()]{0,64}\))?"
)

Version = tuple[int, ...]


class Oldest(msgspec.Struct, frozen=True):
    """The oldest version that is served on a platform, and where to get a newer one."""

    version: Version
    text: str
    store: str


class Versions:
    """Knows which versions are too old."""

    def __init__(self, oldest: Mapping[str, Oldest]):
        self._oldest = oldest

    def __bool__(self) -> bool:
        return bool(self._oldest)

    def check(self, header: bytes | None) -> None:
        """Raises ``AppTooOld`` for a version below the platform's oldest.

        A request that does not say, or says something else, passes: a browser or a script has no version.
        """
        if header is None:
            return
        sent = _SENT.fullmatch(header)
        if sent is None:
            return
        platform = sent[1].decode().lower()
        oldest = self._oldest.get(platform)
        if oldest is not None and _numbers(sent[2].decode()) < oldest.version:
            raise AppTooOld(
                f"This version of the app is no longer served; the oldest is {oldest.text}.",
                platform=platform,
                minimum=oldest.text,
                store=oldest.store,
            )

    def check_said(self, version: object) -> None:
        """As ``check``, for what an app says of itself in a body: any JSON."""
        if self._oldest and isinstance(version, str):
            self.check(version.encode("utf-8", "surrogatepass"))


def read_versions(settings: Iterable[str]) -> Versions:
    """The setting ``min_app_versions``: ``"ios 2.1.0 https://..."`` each. Raises ``SetupError``."""
    found: dict[str, Oldest] = {}
    for text in settings:
        match = _SETTING.fullmatch(text.strip())
        numbers = match[2].split(".") if match is not None else []
        if match is None or len(numbers) > PARTS or not all(numbers) or match[1] in found:
            raise SetupError(
                f"Setting 'min_app_versions': {text!r} cannot be read, or repeats a platform.",
                hint='Write: min_app_versions = ["ios 2.1.0 https://apps.apple.com/app/id1"].',
            )
        found[match[1]] = Oldest(_numbers(match[2]), match[2], match[3] or "")
    return Versions(found)


def _numbers(text: str) -> Version:
    # 2.1 is 2.1.0.0: without the zeros it would be less.
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (PARTS - len(numbers)))
