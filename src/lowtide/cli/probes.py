"""What ``lowtide doctor --url`` asks a server that runs, from outside and without a token."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from lowtide.cli.checks import EDGE, PLAYBOOK, SECRETS, SETTINGS, Finding, Severity

SECONDS = 10.0
MOST = 1024 * 1024
READY = "ready"
UNREACHABLE = (
    "See that server and proxy run, and that the name, its certificate and the port are right from here."
)
STRANGER = "https://stranger.example"


class Got(msgspec.Struct, frozen=True):
    """An answer; the headers' names in lower case."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


Ask = Callable[[str, Mapping[str, str]], Got]
"""A path and headers -> the answer. Raises ``OSError``, ``http.client.HTTPException``."""


class Probe(msgspec.Struct, frozen=True):
    """One question to a server: what is wrong, or None."""

    name: str
    severity: Severity
    look: Callable[[str, Ask], str | None]
    fix: str
    section: str


def asker(url: str) -> Ask:
    """What asks the server at ``url``, a new connection each time, ten seconds at most."""
    place = urlsplit(url)

    def ask(path: str, headers: Mapping[str, str]) -> Got:
        connection: http.client.HTTPConnection
        if place.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(place.netloc, timeout=SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(place.netloc, timeout=SECONDS)
        try:
            connection.request("GET", place.path.rstrip("/") + path, headers=dict(headers))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Got(answer.status, fields, answer.read(MOST))
        finally:
            connection.close()

    return ask


def probe(url: str, ask: Ask) -> list[Finding]:
    """Every finding at ``url``. A server that does not answer at all is one finding, and no more is asked."""
    found = []
    for question in PROBES:
        try:
            message = question.look(url, ask)
        except (OSError, http.client.HTTPException) as error:
            message = f"The server could not be asked: {type(error).__name__}: {error}"
            if question.name == READY:
                found.append(_finding(question, message, UNREACHABLE))
                return found
        if message is not None:
            found.append(_finding(question, message, question.fix))
    return found


def _finding(question: Probe, message: str, fix: str) -> Finding:
    return Finding(question.name, question.severity, message, fix, f"{PLAYBOOK}#{question.section}")


def _tls(url: str, _: Ask) -> str | None:
    return None if url.startswith("https://") else f"{url} is not https: tokens travel in the clear."


def _ready(_: str, ask: Ask) -> str | None:
    got = ask("/health/ready", {})
    return None if got.status == 200 else f"/health/ready answers {got.status}."


def _hsts(url: str, ask: Ask) -> str | None:
    if not url.startswith("https://") or "strict-transport-security" in ask("/health/live", {}).headers:
        return None
    return "Answers lack Strict-Transport-Security: the server does not know that it is behind TLS."


def _headers(_: str, ask: Ask) -> str | None:
    wanted = ("x-content-type-options", "content-security-policy", "referrer-policy", "x-request-id")
    headers = ask("/v1/none-such", {}).headers
    missing = [name for name in wanted if name not in headers]
    return f"Answers lack {', '.join(missing)}." if missing else None


def _host(_: str, ask: Ask) -> str | None:
    got = ask("/v1/none-such", {"Host": "stranger.example"})
    return None if got.status in (400, 403, 421) else f"A request for another host is answered {got.status}."


def _cors(_: str, ask: Ask) -> str | None:
    allowed = ask("/v1/none-such", {"Origin": STRANGER}).headers.get("access-control-allow-origin")
    return f"Any web page may read answers ({allowed})." if allowed in ("*", STRANGER) else None


def _leaks(_: str, ask: Ask) -> str | None:
    got = ask("/v1/none-such%00?x=%ff", {"Authorization": "Bearer x.y.z"})
    if got.status >= 500:
        return f"A broken request is answered {got.status}."
    told = got.body.decode("utf-8", "replace") + " ".join(got.headers.values())
    words = [word for word in ("Traceback", 'File "', "uvicorn", "Python/") if word in told]
    return f"An error's answer tells of the inside: {', '.join(words)}." if words else None


def _development(_: str, ask: Ask) -> str | None:
    got = ask("/dev/outbox.json", {})
    return "The outbox of development is served." if got.status == 200 else None


def _closed(_: str, ask: Ask) -> str | None:
    got = ask("/v1/admin/audit", {})
    return None if got.status in (401, 403) else f"An admin's address answers {got.status} without a token."


def _keys(_: str, ask: Ask) -> str | None:
    got = ask("/.well-known/jwks.json", {})
    try:
        keys = json.loads(got.body)["keys"]
        private = [key for key in keys if "d" in key]
    except (ValueError, KeyError, TypeError):
        return f"/.well-known/jwks.json answers {got.status}, and no keys."
    if private:
        return "The JWKS holds a private key."
    return None if keys else "The JWKS is empty."


PROBES = (
    Probe("tls", "critical", _tls, "Put a proxy with TLS in front.", EDGE),
    Probe(READY, "critical", _ready, "Look into the server's log.", SETTINGS),
    Probe("admin_closed", "critical", _closed, "Look for a proxy that adds a token.", EDGE),
    Probe("jwks", "critical", _keys, "Let the proxy pass /.well-known/ on.", SECRETS),
    Probe(
        "development",
        "critical",
        _development,
        "Serve with 'lowtide serve', never with 'lowtide dev'.",
        SETTINGS,
    ),
    Probe("other_host", "warning", _host, "Let the proxy pass Host on, and drop unknown names.", EDGE),
    Probe(
        "other_origin", "warning", _cors, "List exact origins in 'cors_origins'; add none in the proxy.", EDGE
    ),
    Probe(
        "hsts",
        "warning",
        _hsts,
        "Name the proxy in 'trusted_proxies', and let it send X-Forwarded-Proto.",
        EDGE,
    ),
    Probe("headers", "warning", _headers, "See that the proxy does not take headers away.", EDGE),
    Probe("leaks", "warning", _leaks, "See what the proxy answers by itself.", EDGE),
)
