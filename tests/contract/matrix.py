"""The table: who gets what at every address.

A row is an address, a sample request for something of the owner's, and what eight who ask are answered:

    owner    ann, whose note, device or session it is
    member   bob, of ann's space and team
    other    eve, the same rights in another space
    anonymous  no token; expired: ann's of yesterday; revoked: ann's, of a session that was signed out
    admin    an administrator of ann's space
    server   one of the app's own servers

``200+`` may show the owner's secret, ``200!`` may change records, ``200+!`` both. Without the marks neither
may happen, whatever the status is: a refusal that leaks or writes fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tests.contract.people import People

ASKING = ("owner", "member", "other", "anonymous", "expired", "revoked", "admin", "server")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A request, made anew for each who asks."""

    target: str
    json: Any = None
    body: bytes | None = None
    headers: dict[str, str] = {}
    stream: bool = False
    """The answer does not end: its beginning is read."""


class Row(msgspec.Struct, frozen=True):
    """One address."""

    method: str
    path: str
    sample: Callable[[People], Awaitable[Sample]]
    expected: str

    @property
    def cells(self) -> dict[str, str]:
        """Who asks -> what is expected."""
        return dict(zip(ASKING, self.expected.split(), strict=True))


def at(target: str, json: Any = None) -> Callable[[People], Awaitable[Sample]]:
    """A request that needs nothing to be there."""

    async def sample(_: People) -> Sample:
        return Sample(target=target, json=json)

    return sample


async def ones_device(people: People) -> Sample:
    device = await people.device()
    return Sample(target=f"/v1/sync/devices/{device}?user=ann")


async def ones_resync(people: People) -> Sample:
    device = await people.device()
    return Sample(target=f"/v1/sync/devices/{device}/resync?user=ann")


async def ones_audit(people: People) -> Sample:
    return Sample(target="/v1/sync/audit", json={"client_id": await people.device(), "buckets": []})


async def ones_conflicts(people: People) -> Sample:
    note, _ = await people.conflict()
    return Sample(target=f"/v1/sync/conflicts?model=note&id={note}")


async def ones_restore(people: People) -> Sample:
    _, lost = await people.conflict()
    return Sample(target=f"/v1/sync/conflicts/{lost}/restore")


async def ones_note_changed(people: People) -> Sample:
    note = await people.note()
    return Sample(target="/v1/sync/batches", json=people.batch("patch", "note", note, {"title": "mine now"}))


async def download(people: People) -> Sample:
    await people.note()
    return Sample(target="/sync/stream", json={"client_id": people.fresh(), "raw_data": True}, stream=True)


async def pulled(people: People) -> Sample:
    await people.note()
    return Sample(target="/v1/sync/pull", json={})


async def checkpoint(people: People) -> Sample:
    return Sample(target=f"/write-checkpoint2.json?client_id={await people.device()}")


async def numbered_checkpoint(people: People) -> Sample:
    asked = {"client_id": people.fresh(), "checkpoint_request_id": "1"}
    return Sample(target="/sync/checkpoint-request", json=asked)


async def ones_record(people: People) -> Sample:
    return Sample(target=f"/v1/records/note/{await people.note()}")


async def ones_record_changed(people: People) -> Sample:
    return Sample(target=f"/v1/records/note/{await people.note()}", json={"data": {"title": "mine now"}})


async def new_record(people: People) -> Sample:
    sent = {"id": people.fresh(), "data": {"owner_id": "ann", "title": "plain"}}
    return Sample(target="/v1/records/note", json=sent)


def ones_user(path: str = "", json: Any = None) -> Callable[[People], Awaitable[Sample]]:
    """A request about a user with an account, who is none of those who ask."""

    async def sample(people: People) -> Sample:
        return Sample(target=f"/v1/admin/users/{await people.user()}{path}", json=json)

    return sample


def ones_factor(path: str) -> Callable[[People], Awaitable[Sample]]:
    """A request about a way in that a user has lost. ``{passkey}`` in ``path``: one of theirs."""

    async def sample(people: People) -> Sample:
        user, passkey = await people.equipped()
        return Sample(target=f"/v1/admin/users/{user}{path.format(passkey=passkey)}")

    return sample


async def ones_records(people: People) -> Sample:
    await people.note()
    return Sample(target="/v1/records/note?sort=-created&count=true")


async def changes(people: People) -> Sample:
    await people.note()
    return Sample(target="/v1/changes?models=note", stream=True)


async def melon_pulled(people: People) -> Sample:
    await people.note()
    sent = {"client_id": people.fresh(), "tables": ["note"]}
    return Sample(target="/v1/bridges/watermelondb/pull", json=sent)


async def melon_pushed(people: People) -> Sample:
    row = {"id": await people.note(), "title": "mine now", "_status": "updated", "_changed": "title"}
    sent = {"client_id": people.fresh(), "changes": {"note": {"updated": [row]}}}
    return Sample(target="/v1/bridges/watermelondb/push", json=sent)


def rx(what: str, sent: bool = False, stream: bool = False) -> Callable[[People], Awaitable[Sample]]:
    """A request of RxDB's about the owner's note."""

    async def sample(people: People) -> Sample:
        note = await people.note()
        row = {"newDocumentState": {"id": note, "title": "mine now"}, "assumedMasterState": {"id": note}}
        return Sample(
            target=f"/v1/bridges/rxdb/note/0/{what}",
            json=[row] if sent else None,
            headers={"x-lowtide-client": people.fresh()},
            stream=stream,
        )

    return sample


async def several_records(people: People) -> Sample:
    new = {"op": "create", "model": "note", "data": {"owner_id": "ann", "title": "plain"}}
    old = {"op": "update", "model": "note", "id": await people.note(), "data": {"title": "mine now"}}
    return Sample(target="/v1/records", json={"writes": [old, new]})


OPEN = "200 200 200 200 200 200 200 200"
NO_SESSION = "403 403 403 401 401 401 403 403"
ADMINS = "403 403 403 401 401 401 200 200"
ADMINS_204 = "403 403 403 401 401 401 204 204"
PASSKEY = {
    "credential": {
        "id": "AAAA",
        "rawId": "AAAA",
        "response": {"clientDataJSON": "AAAA", "attestationObject": "AAAA"},
    }
}
STATEMENT = {"challenge": "c", "key_id": "k", "statement": "s"}
ID_TOKEN = {"provider": "apple", "id_token": "x", "nonce": "n" * 16}
USERS = "200 200 200 401 401 401 200 200"
ADMINS = "403 403 403 401 401 401 200 200"


def all_get(status: int) -> str:
    """Whoever asks is told the same."""
    return " ".join([str(status)] * 8)


def form(target: str, body: bytes) -> Callable[[People], Awaitable[Sample]]:
    """What a page's form sends."""

    async def sample(_: People) -> Sample:
        return Sample(target=target, body=body, headers={"content-type": "application/x-www-form-urlencoded"})

    return sample


def public(path: str) -> Row:
    """An address that is open to all."""
    return Row("GET", path, at(path), OPEN)


# fmt: off
ROWS = [
    #                                                       owner member other anon. exp. rev. admin server
    public("/health/live"),
    public("/health/ready"),
    Row("GET", "/problems/{code}", at("/problems/not_found"), OPEN),
    public("/.well-known/jwks.json"),
    public("/.well-known/assetlinks.json"),
    public("/.well-known/apple-app-site-association"),
    # Nothing that sends mail is set up, and the flow and the link are none.
    Row("POST", "/v1/auth/email/start", at("/v1/auth/email/start", {"email": "a@b.example"}), all_get(501)),
    Row("POST", "/v1/auth/email/finish", at("/v1/auth/email/finish", {"flow_id": "x"}), all_get(401)),
    Row("POST", "/v1/auth/sms/start", at("/v1/auth/sms/start", {"phone": "+41446681800"}), all_get(501)),
    Row("POST", "/v1/auth/sms/finish",
        at("/v1/auth/sms/finish", {"flow_id": "x", "code": ""}), all_get(401)),
    Row("GET", "/v1/auth/email/link", at("/v1/auth/email/link?token=x"), all_get(410)),
    Row("POST", "/v1/auth/email/link", form("/v1/auth/email/link", b"token=x&number=10"), all_get(400)),
    Row("POST", "/v1/auth/password", at("/v1/auth/password", {"email": "a@b.example", "password": "x"}),
        all_get(401)),
    Row("POST", "/v1/auth/password/set",
        at("/v1/auth/password/set", {"flow_id": "x", "password": "x"}), all_get(401)),
    Row("PUT", "/v1/auth/me/password", at("/v1/auth/me/password", {"password": "x"}),
                                                            "403  403  403  401  401  401  403  403"),
    Row("POST", "/v1/auth/second-factor",
        at("/v1/auth/second-factor", {"ticket": "x", "code": "1"}), all_get(401)),
    *(Row(method, f"/v1/auth/me/second-factor{rest}", at(f"/v1/auth/me/second-factor{rest}", sent),
                                                            "403  403  403  401  401  401  403  403")
      for method, rest, sent in (("POST", "", None), ("DELETE", "", None), ("POST", "/recovery-codes", None),
                                 ("POST", "/confirm", {"code": "1"}))),
    # Only a session of the app's own makes and deletes passkeys; the tokens here have none.
    Row("POST", "/v1/auth/passkeys/begin", at("/v1/auth/passkeys/begin"), NO_SESSION),
    Row("POST", "/v1/auth/passkeys", at("/v1/auth/passkeys", PASSKEY), NO_SESSION),
    Row("GET", "/v1/auth/passkeys", at("/v1/auth/passkeys"), NO_SESSION),
    Row("PATCH", "/v1/auth/passkeys/{passkey}", at("/v1/auth/passkeys/x", {"name": "x"}), NO_SESSION),
    Row("DELETE", "/v1/auth/passkeys/{passkey}", at("/v1/auth/passkeys/x"), NO_SESSION),
    Row("POST", "/v1/auth/passkeys/sign-in/begin", at("/v1/auth/passkeys/sign-in/begin", {}), OPEN),
    Row("POST", "/v1/auth/passkeys/sign-in", at("/v1/auth/passkeys/sign-in", {}),
                                                            "400  400  400  400  400  400  400  400"),
    Row("POST", "/v1/auth/attestation/challenge", at("/v1/auth/attestation/challenge"), NO_SESSION),
    Row("POST", "/v1/auth/attestation/apple", at("/v1/auth/attestation/apple", STATEMENT), NO_SESSION),
    Row("POST", "/v1/auth/attestation/apple/assertion", at("/v1/auth/attestation/apple/assertion", STATEMENT),
        NO_SESSION),
    Row("POST", "/v1/auth/attestation/android",
        at("/v1/auth/attestation/android", {"challenge": "c", "token": "t"}), NO_SESSION),
    # Neither Apple nor Google nor another provider is set up.
    Row("POST", "/v1/auth/id-token", at("/v1/auth/id-token", ID_TOKEN),
                                                            "404  404  404  404  401  401  404  401"),
    Row("POST", "/v1/auth/apple/notifications", at("/v1/auth/apple/notifications", {"payload": "x"}),
        all_get(404)),
    Row("GET", "/v1/auth/oidc/{provider}/start",
        at(f"/v1/auth/oidc/x/start?redirect_uri=a:/&challenge={'c' * 43}"), all_get(404)),
    Row("GET", "/v1/auth/oidc/{provider}/callback", at("/v1/auth/oidc/x/callback?code=c&state=s"),
        all_get(401)),
    Row("POST", "/v1/auth/oidc/finish", at("/v1/auth/oidc/finish", {"code": "c", "verifier": "v" * 43}),
        all_get(401)),
    public("/v1/openapi.json"),
    public("/docs"),
    public("/docs/reference.css"),
    public("/docs/reference.js"),
    Row("GET", "/v1/admin/keys", at("/v1/admin/keys"), ADMINS),
    Row("POST", "/v1/admin/keys/rotate", at("/v1/admin/keys/rotate"), ADMINS.replace("200", "409")),
    Row("DELETE", "/v1/admin/keys/{kid}", at("/v1/admin/keys/none"), ADMINS.replace("200", "404")),
    Row("POST", "/v1/functions/{name}", at("/v1/functions/add", {"left": 1}), USERS),
    # A token without a session, such as those here, has no account; tests/auth has those that do.
    Row("POST", "/v1/auth/token/refresh", at("/v1/auth/token/refresh", {"refresh_token": "x"}),
                                                            "401   401  401  401  401  401  401  401"),
    Row("POST", "/v1/auth/anonymous", at("/v1/auth/anonymous", {}),
                                                            "201   201  201  201  201  201  201  201"),
    Row("GET", "/v1/auth/me", at("/v1/auth/me"),            "404   404  404  401  401  401  404  404"),
    Row("PATCH", "/v1/auth/me", at("/v1/auth/me", {"name": "x"}), NO_SESSION),
    Row("DELETE", "/v1/auth/me", at("/v1/auth/me"), NO_SESSION),
    Row("GET", "/v1/auth/me/export", at("/v1/auth/me/export"), NO_SESSION),
    Row("POST", "/v1/auth/merge", at("/v1/auth/merge", {"token": "x"}), NO_SESSION),
    Row("GET", "/v1/auth/sessions", at("/v1/auth/sessions"), NO_SESSION),
    Row("DELETE", "/v1/auth/sessions/{id}", at("/v1/auth/sessions/x"), NO_SESSION),
    Row("POST", "/v1/auth/sessions/end-others", at("/v1/auth/sessions/end-others", {}), NO_SESSION),
    Row("POST", "/v1/auth/sign-out", at("/v1/auth/sign-out"), NO_SESSION),
    Row("GET", "/v1/auth/identities", at("/v1/auth/identities"), NO_SESSION),
    Row("DELETE", "/v1/auth/identities/{provider}/{subject}", at("/v1/auth/identities/a/b"), NO_SESSION),
    Row("GET", "/v1/admin/users", at("/v1/admin/users"),    ADMINS),
    Row("POST", "/v1/admin/users", at("/v1/admin/users", {}),
                                                            "403   403  403  401  401  401  201  201"),
    Row("GET", "/v1/admin/users/{id}", ones_user(),         ADMINS),
    Row("PATCH", "/v1/admin/users/{id}", ones_user(json={"name": "x"}), ADMINS),
    Row("DELETE", "/v1/admin/users/{id}", ones_user(), ADMINS_204),
    Row("POST", "/v1/admin/users/{id}/end-sessions", ones_user("/end-sessions", {}), ADMINS),
    Row("PUT", "/v1/admin/users/{id}/spaces/{space}", ones_user("/spaces/acme", {}), ADMINS_204),
    Row("DELETE", "/v1/admin/users/{id}/spaces/{space}", ones_user("/spaces/acme"), ADMINS_204),
    Row("GET", "/v1/admin/users/{id}/ways-in", ones_factor("/ways-in"), ADMINS),
    Row("DELETE", "/v1/admin/users/{id}/second-factor", ones_factor("/second-factor"), ADMINS),
    Row("DELETE", "/v1/admin/users/{id}/passkeys/{passkey}", ones_factor("/passkeys/{passkey}"), ADMINS),
    Row("POST", "/v1/sync/pull", pulled,                    "200+  200  200  401  401  401  200  200"),
    Row("GET", "/v1/changes", changes,                      "200+  200  200  401  401  401  200  403"),
    Row("POST", "/v1/records", several_records,             "200+! 404  404  401  401  401  404  200+!"),
    Row("GET", "/v1/records/{model}", ones_records,         "200+  200  200  401  401  401  200  200+"),
    Row("POST", "/v1/records/{model}", new_record,          "201!  403  403  401  401  401  403  201!"),
    Row("GET", "/v1/records/{model}/{id}", ones_record,     "200+  404  404  401  401  401  404  200+"),
    Row("PATCH", "/v1/records/{model}/{id}", ones_record_changed,
                                                            "200+! 404  404  401  401  401  404  200+!"),
    Row("DELETE", "/v1/records/{model}/{id}", ones_record,  "204!  404  404  401  401  401  404  204!"),
    Row("POST", "/v1/bridges/watermelondb/pull", melon_pulled,
                                                            "200+  200  200  401  401  401  200  403"),
    Row("POST", "/v1/bridges/watermelondb/push", melon_pushed,
                                                            "200!  200  200  401  401  401  200  403"),
    Row("GET", "/v1/bridges/rxdb/{model}/{version}/pull", rx("pull?limit=1000"),
                                                            "200+  200  200  401  401  401  200  403"),
    Row("POST", "/v1/bridges/rxdb/{model}/{version}/push", rx("push", sent=True),
                                                            "200+! 200  200  401  401  401  200  403"),
    Row("GET", "/v1/bridges/rxdb/{model}/{version}/pullStream", rx("pullStream", stream=True),
                                                            "200   200  200  401  401  401  200  403"),
    Row("POST", "/sync/stream", download,                   "200+  200  200  401  401  401  200  200"),
    Row("GET", "/sync/stream", at("/sync/stream"), all_get(400)),  # no WebSocket, so nothing
    Row("POST", "/v1/sync/batches", ones_note_changed,      "200!  200  200  401  401  401  200  200!"),
    Row("GET", "/write-checkpoint2.json", checkpoint, USERS),
    Row("POST", "/sync/checkpoint-request", numbered_checkpoint, USERS),
    Row("GET", "/v1/sync/devices/{client_id}", ones_device, "200   404  404  401  401  401  404  200"),
    Row("POST", "/v1/sync/devices/{client_id}/resync", ones_resync,
                                                            "204   204  204  401  401  401  204  204"),
    Row("POST", "/v1/sync/audit", ones_audit, USERS),
    Row("GET", "/v1/sync/conflicts", ones_conflicts,        "200+  404  404  401  401  401  404  200+"),
    Row("POST", "/v1/sync/conflicts/{id}/restore", ones_restore,
                                                            "200+! 404  404  401  401  401  404  200+!"),
    public("/.well-known/openid-configuration"),
    public("/.well-known/oauth-authorization-server"),
    # No such client asks.
    Row("GET", "/v1/oauth/authorize", at("/v1/oauth/authorize"), all_get(400)),
    Row("POST", "/v1/oauth/authorize", form("/v1/oauth/authorize", b"step=email"), all_get(400)),
    Row("POST", "/v1/oauth/par", form("/v1/oauth/par", b"client_id=x"), all_get(401)),
    Row("POST", "/v1/oauth/token", form("/v1/oauth/token", b"client_id=x"), all_get(401)),
    Row("POST", "/v1/oauth/revoke", form("/v1/oauth/revoke", b"client_id=x&token=x"), all_get(401)),
    Row("POST", "/v1/oauth/introspect", form("/v1/oauth/introspect", b"token=x"),
                                                            "401   401  401  401  401  401  401  200"),
    # Nobody here came through the provider.
    Row("GET", "/v1/oauth/userinfo", at("/v1/oauth/userinfo"),
                                                            "403   403  403  401  401  401  403  403"),
    Row("POST", "/v1/oauth/userinfo", form("/v1/oauth/userinfo", b""),
                                                            "403   403  403  401  401  401  403  403"),
    Row("GET", "/v1/oauth/logout", at("/v1/oauth/logout"), OPEN),
    Row("POST", "/v1/oauth/logout", form("/v1/oauth/logout", b"answer=yes"), OPEN),
    # Nobody came from a page of ours.
    Row("GET", "/v1/oauth/upstream/{provider}", at("/v1/oauth/upstream/x?request=x&proof=x"), all_get(400)),
    Row("GET", "/v1/oauth/upstream", at("/v1/oauth/upstream?code=x&state=x"), all_get(400)),
    public("/v1/oauth/passkeys.js"),
    # In a browser in which nobody is signed in.
    Row("GET", "/v1/oauth/apps", at("/v1/oauth/apps"), all_get(303)),
    Row("POST", "/v1/oauth/apps", form("/v1/oauth/apps", b"client=x"), all_get(303)),
    Row("GET", "/v1/auth/consents", at("/v1/auth/consents"), NO_SESSION),
    Row("DELETE", "/v1/auth/consents/{client}", at("/v1/auth/consents/x"), NO_SESSION),
    Row("GET", "/v1/admin/clients", at("/v1/admin/clients"), "403  403  403  401  401  401  200  200"),
    Row("PUT", "/v1/admin/clients/{client}", at("/v1/admin/clients/x", {"id": "x", "name": "X"}),
                                                            "403   403  403  401  401  401  200  200"),
    Row("DELETE", "/v1/admin/clients/{client}", at("/v1/admin/clients/none"),
                                                            "403   403  403  401  401  401  404  404"),
    Row("GET", "/v1/admin/webhooks", at("/v1/admin/webhooks"), ADMINS),
    Row("POST", "/v1/admin/webhooks",
        at("/v1/admin/webhooks", {"url": "https://example.com/", "events": ["*"]}),
        ADMINS.replace("200", "201")),
    Row("PATCH", "/v1/admin/webhooks/{id}", at("/v1/admin/webhooks/none", {"enabled": True}),
        ADMINS.replace("200", "404")),
    Row("DELETE", "/v1/admin/webhooks/{id}", at("/v1/admin/webhooks/none"), ADMINS.replace("200", "404")),
    Row("POST", "/v1/admin/webhooks/{id}/secret", at("/v1/admin/webhooks/none/secret"),
        ADMINS.replace("200", "404")),
    Row("GET", "/v1/admin/webhooks/{id}/tries", at("/v1/admin/webhooks/none/tries"),
        ADMINS.replace("200", "404")),
    Row("POST", "/v1/admin/webhooks/{id}/test", at("/v1/admin/webhooks/none/test"),
        ADMINS.replace("200", "404")),
    Row("POST", "/v1/admin/webhooks/{id}/replay", at("/v1/admin/webhooks/none/replay"),
        ADMINS.replace("200", "404")),
    Row("GET", "/v1/admin/audit", at("/v1/admin/audit"),    "403   403  403  401  401  401  200  200"),
    Row("GET", "/v1/admin/audit/checkpoint", at("/v1/admin/audit/checkpoint"),
                                                            "403   403  403  401  401  401  403  200"),
]
# fmt: on
