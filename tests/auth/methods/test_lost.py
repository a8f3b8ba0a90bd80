"""A user who lost every second factor is let in again by those who run the app, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.audit import Entry
from lowtide.auth.admin import Admin
from lowtide.kernel.errors import InvalidGrant
from lowtide.storage.db import Tx
from tests.api.client import Answer
from tests.auth.authenticator import Authenticator
from tests.auth.methods.conftest import House
from tests.auth.methods.test_secondfactor import MINE, enrolled, second, ticket
from tests.auth.world import ask_for

pytestmark = pytest.mark.anyio


def server(house: House, space: str = "main") -> str:
    """A token of one of the app's servers."""
    return house.lowtide.tokens.sign("app", space=space, server=True)


async def ask(
    house: House, method: str, user: str, path: str, status: int = 200, token: str | None = None
) -> Any:
    """What an admin is answered about a way in of ``user``."""
    url = f"/v1/admin/users/{user}/{path}"
    answer = await house.client.request(method, url, token=token or server(house))
    assert answer.status == status, answer.body
    return answer.json()


async def with_passkey(house: House, token: str) -> tuple[str, Authenticator]:
    """A passkey of whoever holds ``token``: its id, and the device."""
    device = Authenticator(rp_id="localhost", origin="https://localhost")
    options = (await house.client.post("/v1/auth/passkeys/begin", token=token)).json()
    credential = device.register(options.get("publicKey", options))
    made = await house.post("passkeys", token, credential=credential, name="Ann's phone")
    assert made.status == 201, made.body
    return made.json()["id"], device


async def by_passkey(house: House, device: Authenticator, given: str = "") -> Answer:
    """A sign-in with it."""
    options = (await house.post("passkeys/sign-in/begin", ticket=given)).json()
    device.counter += 1
    return await house.post(
        "passkeys/sign-in", credential=device.sign_in(options.get("publicKey", options)), ticket=given
    )


@pytest.fixture
def written(house: House, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """What the audit log is given: it keeps hashes of before and after."""
    entries: list[Entry] = []
    write = house.lowtide.audit.write

    async def spy(tx: Tx, entry: Entry) -> str:
        entries.append(entry)
        return await write(tx, entry)

    monkeypatch.setattr(house.lowtide.audit, "write", spy)
    return entries


async def test_a_lost_second_factor_is_taken_away(house: House, written: list[Entry]) -> None:
    """Authenticator and recovery codes go together; every session ends; the user is told and let in."""
    session, phone = await enrolled(house)
    ann = session["user"]["id"]
    kept = await ask(house, "GET", ann, "ways-in")
    assert kept["second_factor"] == {"totp": True, "recovery_codes": 10}
    assert (kept["email"], kept["password"], kept["passkeys"]) == ("ann@example.com", False, [])
    begun = await ticket(house)

    left = await ask(house, "DELETE", ann, "second-factor")
    assert left["second_factor"] == {"totp": False, "recovery_codes": 0}
    assert [way["provider"] for way in left["identities"]] == ["email"]
    (mail,) = await house.messages(1)
    assert (mail["to"], "second factor was taken away" in mail["text"]) == ("ann@example.com", True)
    assert await house.ended(session["session_id"])
    for code in (phone.code(), phone.recovery[0]):
        assert (await second(house, begun, code)).code == "invalid_grant"
    assert await house.rows("SELECT * FROM totp") == await house.rows("SELECT * FROM recovery_code") == []

    again = await house.sign_in()
    assert (again["user"]["id"], await house.ended(again["session_id"])) == (ann, False)
    (entry,) = [one for one in written if one.action == "second_factor.remove"]
    assert (entry.actor, entry.target) == ("server:app", f"user:{ann}")
    assert entry.before == {"totp": True, "recovery_codes": 10, "short_password": False}
    gone = {"totp": False, "recovery_codes": 0}
    assert entry.after == {"sessions_ended": 1, "password": False, "passkeys": 0, "identities": 1, **gone}


async def test_a_second_factor_that_is_not_there_ends_nothing(house: House) -> None:
    """404 for a repeat, for one that nobody confirmed, and for nobody: no session ends, no entry, no mail."""
    session = await house.sign_in()
    await house.client.post(f"/v1/auth/{MINE}", token=session["access_token"])
    for user in (session["user"]["id"], "nobody"):
        assert (await ask(house, "DELETE", user, "second-factor", 404))["code"] == "not_found"
    assert (await ask(house, "GET", "nobody", "ways-in", 404))["code"] == "not_found"
    assert not await house.ended(session["session_id"])
    assert await house.audited("second_factor.remove") == 0
    await house.messages(0)


async def test_only_the_named_users_goes(house: House) -> None:
    """Another user's authenticator, codes, passkey and sessions stay; nor is theirs taken away as hers."""
    session, phone = await enrolled(house)
    bob = await house.sign_in("bob@example.com")
    theirs, device = await with_passkey(house, bob["access_token"])
    mine, _ = await with_passkey(house, session["access_token"])
    ids = session["user"]["id"], bob["user"]["id"]
    await ask(house, "DELETE", ids[1], "second-factor", 404)
    await ask(house, "DELETE", ids[1], f"passkeys/{mine}", 404)
    await ask(house, "DELETE", ids[0], f"passkeys/{theirs}", 404)
    assert not await house.ended(session["session_id"])
    await ask(house, "DELETE", ids[0], f"passkeys/{mine}")
    await house.messages(1)
    assert (await ask(house, "GET", ids[0], "ways-in"))["second_factor"]["totp"] is True
    assert (await second(house, await ticket(house), phone.code())).status == 200
    assert not await house.ended(bob["session_id"])
    assert (await by_passkey(house, device)).json()["user"]["id"] == ids[1]


async def test_a_passkey_that_was_taken_away_opens_nothing(house: House, written: list[Entry]) -> None:
    """Neither alone, nor as the second factor of a sign-in that waited for it."""
    session, phone = await enrolled(house)
    id, device = await with_passkey(house, session["access_token"])
    ann = session["user"]["id"]
    assert (await by_passkey(house, device)).status == 200
    begun = await ticket(house)
    left = await ask(house, "DELETE", ann, f"passkeys/{id}")
    assert (left["passkeys"], left["second_factor"]["totp"]) == ([], True)
    assert "passkey" not in {way["provider"] for way in left["identities"]}
    (mail,) = await house.messages(1)
    assert "passkey was taken away" in mail["text"]
    assert await house.ended(session["session_id"])
    assert (await by_passkey(house, device)).code == "invalid_grant"
    assert (await second(house, begun, phone.code())).code == "invalid_grant", "begun before"
    (entry,) = [one for one in written if one.action == "user.remove_passkey"]
    assert (entry.target, entry.before, entry.personal) == (f"user:{ann}", {"passkey": id}, {"passkey": id})
    assert entry.after["passkeys"] == 0 < entry.after["sessions_ended"]
    await ask(house, "DELETE", ann, f"passkeys/{id}", 404)


async def test_the_last_way_in_goes_and_the_answer_says_so(house: House) -> None:
    """An admin may; the user may not. Nothing is left, and nobody is told: there is no address."""
    guest = (await house.post("anonymous")).json()
    id, device = await with_passkey(house, guest["access_token"])
    token = (await by_passkey(house, device)).json()["access_token"]
    own = await house.client.request("DELETE", f"/v1/auth/passkeys/{id}", token=token)
    assert own.code == "conflict"
    left = await ask(house, "DELETE", guest["user"]["id"], f"passkeys/{id}")
    assert (left["email"], left["password"], left["passkeys"], left["identities"]) == (None, False, [], [])
    assert (await by_passkey(house, device)).code == "invalid_grant"
    await house.messages(0)


async def test_a_password_that_may_not_stand_alone_goes_along(house: House, written: list[Entry]) -> None:
    """8 characters were enough beside a second factor; without one they let nobody in."""
    session, _ = await enrolled(house)
    token, password = session["access_token"], "v7#pQz!9"
    changed = await house.client.request(
        "PUT", "/v1/auth/me/password", json={"password": password}, token=token
    )
    assert changed.status == 204
    ann = session["user"]["id"]
    assert (await ask(house, "GET", ann, "ways-in"))["password"] is True
    left = await ask(house, "DELETE", ann, "second-factor")
    assert (left["password"], left["email"]) == (False, "ann@example.com")
    tried = await house.post("password", email="ann@example.com", password=password)
    assert tried.code == "invalid_grant"
    (entry,) = [one for one in written if one.action == "second_factor.remove"]
    assert entry.before["short_password"] is True


async def test_a_code_that_was_right_a_moment_before_finishes_nothing(house: House) -> None:
    """A sign-in between its code and its session meets the removal, and loses."""
    session, phone = await enrolled(house)
    begun, ann = await ticket(house), session["user"]["id"]
    factor = await house.lowtide.methods.seconds.check(ann, phone.code(), ip="203.0.113.9")
    await ask(house, "DELETE", ann, "second-factor")
    with pytest.raises(InvalidGrant):
        await house.lowtide.accounts.sign_in.finish(begun, ask_for(), factor.amr, spend=factor.spend)
    assert await house.rows("SELECT id FROM session WHERE ended_at IS NULL") == []


async def test_an_admin_does_not_go_round_their_own_second_factor(house: House) -> None:
    """A copied token of an admin takes nothing of that admin away; for a locked out user it works."""
    session, phone = await enrolled(house)
    ann = session["user"]["id"]
    admin = Admin(house.lowtide.database, house.lowtide.accounts)
    await admin.make_admin("ann@example.com", "cli:root")
    token = await house.refreshed(session)
    passkey, _ = await with_passkey(house, token)
    token = await house.refreshed((await second(house, await ticket(house), phone.code())).json())
    for path in ("second-factor", f"passkeys/{passkey}"):
        assert (await ask(house, "DELETE", ann, path, 409, token))["code"] == "conflict"
    assert (await ask(house, "GET", ann, "ways-in", token=token))["second_factor"]["totp"] is True

    locked = await house.client.request(
        "PATCH", f"/v1/admin/users/{ann}", json={"disabled": True}, token=server(house)
    )
    assert locked.status == 200
    assert (await ask(house, "DELETE", ann, "second-factor", 401, token))["code"] == "session_revoked"
    assert (await ask(house, "DELETE", ann, "second-factor"))["second_factor"]["totp"] is False


async def test_a_user_or_a_server_of_another_space(house: House) -> None:
    """A user has one account in all spaces: a server of another one acts in its own name, a user nowhere."""
    session, _ = await enrolled(house)
    ann = session["user"]["id"]
    eve = house.lowtide.tokens.sign("eve", space="elsewhere")
    for token in (session["access_token"], eve):
        for method, path in (("GET", "ways-in"), ("DELETE", "second-factor"), ("DELETE", "passkeys/x")):
            assert (await ask(house, method, ann, path, 403, token))["code"] == "forbidden"
    assert not await house.ended(session["session_id"])
    await ask(house, "DELETE", ann, "second-factor", token=server(house, "elsewhere"))
    assert await house.rows("SELECT space FROM audit_entry WHERE action = 'second_factor.remove'") == [
        ("elsewhere",)
    ]
