"""The whole API against its own description: thousands of requests that keep to it, or do not, as two users.

Every check of schemathesis counts: no fault, no undocumented status, type, header or schema, nothing accepted
that the description forbids, no address without the token that it asks for, and no user who reads another's
objects. ``ann`` and ``eve`` have the same rights in two spaces: once with tokens that the app's server
signed, once with sessions of their own, which alone may use the addresses of accounts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.server_process import ServerProcess

OWN = "^/v1/auth/(me|sessions|identities|passkeys|merge|attestation|token|second-factor)"
"""What is a session's own."""
RUNS = {
    "signed": (25, ["--exclude-path-regex", OWN]),
    "sessions": (15, ["--include-path-regex", f"{OWN}|^/v1/(records|sync/batches|functions)"]),
}
"""By the kind of its tokens: seconds of a run, and which addresses."""
FAREWELLS = ("DELETE /v1/auth/me", "DELETE /v1/auth/sessions/{id}")
"""They end the session that asks."""
SHOP = Path(__file__).parent / "shop.py"
ENDLESS = ("/sync/stream", "/v1/changes", "/v1/bridges/rxdb/{model}/{version}/pullStream")
"""Answers without an end: the matrix asks for them."""
OPAQUE = {
    "^/(sync|v1/sync|write-checkpoint2)": "names of devices, and cursors that the server gave out",
    "^/v1/bridges": "names of clients, and cursors that the server gave out",
    "^/v1/records": "ids of printable characters, and 64 bits for integers inside free JSON",
    "^/v1/functions/": "an Idempotency-Key that was used before, for another request",
    "^/v1/oauth/": "registered clients, codes and tokens",
    "^/v1/auth/": "addresses, flows, codes and tokens",
}
"""Addresses that want what no schema can say, and may refuse what fits theirs."""
CONFIG = """\
[auth.wfc]
path = "{wfc}"
peers = ["ann", "eve"]

[generation]
allow-x00 = false

[output.truncation]
enabled = false

# What is too long for its field may be too large for its address: a refusal all the same.
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]
"""
EXCEPT = """
[[operations]]
include-path-regex = '{}'
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """The shop behind a socket, on both databases; nobody has anything to complain about at the end."""
    dsn: str | None = request.getfixturevalue("postgres_dsn") if request.param == "postgres" else None
    with ServerProcess(tmp_path / "server", SHOP, "shop", postgres=dsn) as running:
        yield running
        assert running.stop() == 0


def send(
    server: ServerProcess, path: str, token: str, body: dict[str, Any] | None, method: str = "POST"
) -> dict[str, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = Request(server.url + path, data, headers, method=method)
    with urlopen(request, timeout=10) as answer:
        assert answer.status in (200, 201, 204)
        return dict(json.loads(answer.read() or b"{}"))


def session(server: ServerProcess, boss: str, space: str) -> tuple[str, str]:
    """Somebody who has signed in, and acts in ``space``: their id and token."""
    begun = send(server, "/v1/auth/anonymous", "", {"device": {"name": "phone"}})
    user = begun["user"]["id"]
    if space == "main":
        return user, begun["access_token"]
    send(server, f"/v1/admin/users/{user}/spaces/{space}", boss, {"roles": []}, "PUT")
    refresh = {"refresh_token": begun["refresh_token"], "space": space}
    return user, send(server, "/v1/auth/token/refresh", "", refresh)["access_token"]


def settle(server: ServerProcess, folder: Path, kind: str) -> Path:
    """Let both into a team of the same name, each in a space of their own; the configuration for it."""
    auth = []
    for name, space in (("ann", "main"), ("eve", "elsewhere")):
        boss = server.token("app", space=space, server=True)
        user, token = name, server.token(name, space=space)
        if kind == "sessions":
            user, token = session(server, boss, space)
        send(server, "/v1/records/membership", boss, {"data": {"user_id": user, "team_id": "red"}})
        send(server, "/v1/records/city", boss, {"data": {"name": f"The city of {user}"}})
        for number in range(2):
            note = {"data": {"owner_id": user, "title": f"{name} {number}"}}
            send(server, "/v1/records/note", token, note)
        header = {"name": "Authorization", "value": f"Bearer {token}"}
        auth.append({"name": name, "fixedHeaders": [header]})
    wfc = folder / f"{kind}.json"
    wfc.write_text(json.dumps({"auth": auth}))
    config = folder / f"{kind}.toml"
    config.write_text(CONFIG.format(wfc=wfc) + "".join(map(EXCEPT.format, OPAQUE)))
    return config


def test_the_api_keeps_to_its_description(server: ServerProcess, tmp_path: Path) -> None:
    """No check of schemathesis finds anything, and the server's log holds no error."""
    for kind in RUNS:
        run(server, tmp_path, kind)
    assert server.faults() == []


def run(server: ServerProcess, folder: Path, kind: str) -> None:
    """All checks, as two users with tokens of this kind."""
    config = settle(server, folder, kind)
    seconds, chosen = RUNS[kind]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{server.url}/v1/openapi.json", "--checks", "all", "--seed", "1", "--no-color"]
    command += [
        "--max-time",
        str(seconds),
        "--max-examples",
        "15",
        "--request-timeout",
        "10",
        "--workers",
        "1",
    ]
    command += chosen
    for path in ENDLESS:
        command += ["--exclude-path", path]
    for name in FAREWELLS:
        command += ["--exclude-name", name]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-4000:]
    assert "passed" in ran.stdout
    if kind == "sessions":
        for one in json.loads((folder / f"{kind}.json").read_text())["auth"]:
            token = one["fixedHeaders"][0]["value"].removeprefix("Bearer ")
            # Else all but the first requests were those of nobody.
            assert send(server, "/v1/auth/me", token, None, "GET")["anonymous"]
