"""What proves somebody counts once, and is used up with the sign-in that it made: not before."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lowtide import App
from lowtide.auth.methods.codes import MAX_TRIES
from lowtide.auth.model import Opened, Signed, User
from lowtide.kernel.errors import StorageLost
from lowtide.storage.db import Dialect, Tx
from lowtide.storage.once import KeyedRequest
from tests.api.client import Answer
from tests.auth.authenticator import Authenticator
from tests.auth.methods.conftest import House, housed
from tests.auth.methods.test_email import choose, wrong
from tests.auth.methods.test_passwords import GOOD, OTHER, change, enter, with_password
from tests.auth.methods.test_secondfactor import enrolled, second, ticket
from tests.auth.world import ask_for, google

pytestmark = pytest.mark.anyio

Sent = dict[str, Any]
Way = Callable[[House], Awaitable[tuple[str, Sent]]]
"""Prepares a sign-in: the address and the body of its last request."""
KEY = "a-key-that-nobody-else-has-{}"


class Moody:
    """The app's hooks: they fail as often as they are told to, or something else happens meanwhile."""

    def __init__(self) -> None:
        self.fails = 0
        self.meanwhile: Callable[[], Awaitable[Answer]] | None = None
        self.app = App("notes")
        self.app.before_sign_up(self.hook)
        self.app.before_sign_in(self.hook)

    async def hook(self, event: Any) -> None:
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            assert (await happens()).status == 204
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the app's own database is away")


@pytest.fixture
def moody() -> Moody:
    return Moody()


@pytest.fixture
async def house(
    moody: Moody, anyio_backend: object, dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    """A backend whose app has hooks."""
    place = str(tmp_path / "data.db") if dialect == "sqlite" else request.getfixturevalue("postgres_dsn")
    async with housed(place, moody.app) as house:
        yield house


async def by_code(house: House) -> tuple[str, Sent]:
    flow = (await house.post("email/start", email="ann@example.com")).json()
    return "email/finish", {"flow_id": flow["flow_id"], "code": await house.code()}


async def by_link(house: House) -> tuple[str, Sent]:
    flow = (await house.post("email/start", email="ann@example.com")).json()
    link = await house.link()
    for _ in range(2):  # the browser that heard no answer sends its form again
        assert (await choose(house, link, flow["number"])).status == 200
    return "email/finish", {"flow_id": flow["flow_id"]}


async def by_text(house: House) -> tuple[str, Sent]:
    flow = (await house.post("sms/start", phone="+41446681800")).json()
    (text,) = await house.messages(1)
    found = re.search(r"\d{8}", text["text"])
    assert found is not None
    return "sms/finish", {"flow_id": flow["flow_id"], "code": found[0]}


async def by_new_password(house: House) -> tuple[str, Sent]:
    _, sent = await by_code(house)
    return "password/set", sent | {"password": GOOD}


async def by_totp(house: House) -> tuple[str, Sent]:
    _, phone = await enrolled(house)
    return "second-factor", {"ticket": await ticket(house), "code": phone.code()}


async def by_recovery_code(house: House) -> tuple[str, Sent]:
    _, phone = await enrolled(house)
    return "second-factor", {"ticket": await ticket(house), "code": phone.recovery[0]}


async def new_passkey(house: House, device: Authenticator) -> tuple[str, Sent]:
    token = (await house.sign_in())["access_token"]
    begun = (await house.post("passkeys/begin", token)).json()["publicKey"]
    return token, {"credential": device.register(begun)}


async def by_passkey(house: House) -> tuple[str, Sent]:
    device = Authenticator(rp_id="localhost", origin="https://localhost")
    token, sent = await new_passkey(house, device)
    assert (await house.post("passkeys", token, **sent)).status == 201
    device.counter = 1
    begun = (await house.post("passkeys/sign-in/begin")).json()["publicKey"]
    return "passkeys/sign-in", {"credential": device.sign_in(begun)}


WAYS = [by_code, by_link, by_text, by_new_password, by_totp, by_recovery_code, by_passkey]


async def send(house: House, path: str, sent: Sent, key: str, token: str | None = None) -> Answer:
    headers = {"idempotency-key": KEY.format(key)}
    return await house.client.post(f"/v1/auth/{path}", json=sent, headers=headers, token=token)


@contextmanager
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server dies right after its commit: nothing is heard of it, and nothing is tidied up."""

    async def gone(*given: Any) -> None:
        raise StorageLost

    with monkeypatch.context() as patch:
        patch.setattr(KeyedRequest, "finish", gone)
        patch.setattr(KeyedRequest, "release", gone)
        yield


@pytest.mark.parametrize("way", WAYS)
async def test_a_proof_is_used_up_with_its_sign_in(
    house: House, moody: Moody, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that fails and a server that dies before its commit leave it good; one that dies right after it
    has its answer for the repeat with the same key. Whoever has another key comes too late."""
    path, sent = await way(house)
    before = len(await house.rows("SELECT id FROM session"))

    moody.fails = 1
    assert (await send(house, path, sent, "1")).status == 502
    opened, sessions = house.lowtide.accounts.sessions.open, house.lowtide.accounts.sessions

    async def died(*given: Any, **more: Any) -> Opened:
        await opened(*given, **more)
        raise StorageLost

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "open", died)
        assert (await send(house, path, sent, "1")).status == 503
    assert len(await house.rows("SELECT id FROM session")) == before

    with deaf(monkeypatch):
        assert (await send(house, path, sent, "1")).status == 503
    ((session,),) = await house.rows("SELECT id FROM session WHERE ended_at IS NULL ORDER BY id DESC LIMIT 1")
    assert len(await house.rows("SELECT id FROM session")) == before + 1
    again = await send(house, path, sent, "1")
    assert (again.status, again.headers.get("idempotency-replayed")) == (200, "true")
    assert again.json()["session_id"] == session
    assert (await send(house, path, sent, "2")).code == "invalid_grant"
    assert len(await house.rows("SELECT id FROM session")) == before + 1
    if way is by_new_password:
        email = "ann@example.com"
        assert (await house.post("password", email=email, password=GOOD)).status == 200


async def test_a_guest_is_made_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing proves a guest: a server that dies before its answer is heard would make another one."""

    with deaf(monkeypatch):
        assert (await send(house, "anonymous", {}, "1")).status == 503
    again = await send(house, "anonymous", {}, "1")
    assert (again.status, again.headers.get("idempotency-replayed")) == (201, "true")
    assert await house.rows("SELECT id FROM session") == [(again.json()["session_id"],)]


async def test_a_passkey_is_made_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has it already: a repeat is told so, and not that its challenge was used."""
    token, sent = await new_passkey(house, Authenticator(rp_id="localhost", origin="https://localhost"))
    with deaf(monkeypatch):
        assert (await send(house, "passkeys", sent, "1", token)).status == 503
    again = await send(house, "passkeys", sent, "1", token)
    assert (again.status, again.headers.get("idempotency-replayed")) == (201, "true")
    assert await house.rows("SELECT id FROM passkey") == [(again.json()["id"],)]
    assert (await send(house, "passkeys", sent, "2", token)).code == "invalid_grant"


@pytest.mark.parametrize("way", WAYS)
async def test_of_two_at_the_same_moment_one_signs_in(house: House, way: Way) -> None:
    """However it was proved: what is used up is a row that only one transaction takes."""
    path, sent = await way(house)
    before = len(await house.rows("SELECT id FROM session"))
    answers = await asyncio.gather(*(send(house, path, sent, key) for key in "123"))
    assert sorted(answer.status for answer in answers) == [200, 401, 401]
    assert len(await house.rows("SELECT id FROM session")) == before + 1


async def test_wrong_codes_count_whatever_becomes_of_the_right_one(house: House, moody: Moody) -> None:
    """Between sign-ins that fail nobody guesses for free; and these take no try of their own."""
    path, sent = await by_code(house)
    for left in range(MAX_TRIES - 1, 0, -1):
        moody.fails = 2
        for _ in range(2):
            assert (await house.post(path, **sent)).status == 502
        guess = await house.post(path, **sent | {"code": wrong(sent["code"])})
        assert (guess.code, guess.json()["tries_left"]) == ("invalid_grant", left)
    assert (await house.post(path, **sent | {"code": wrong(sent["code"])})).json()["tries_left"] == 0
    assert (await house.post(path, **sent)).code == "invalid_grant"
    assert await house.rows("SELECT id FROM session") == []


async def test_a_password_that_was_changed_meanwhile_signs_nobody_in(house: House, moody: Moody) -> None:
    """Whoever knew the old one does not get a session that outlives it."""
    made = await with_password(house)
    moody.meanwhile = lambda: change(house, made["access_token"], password=OTHER, current=GOOD)
    assert (await enter(house, GOOD)).code == "invalid_grant"
    assert await house.rows("SELECT id FROM session") == [(made["session_id"],)]
    assert (await enter(house, OTHER)).status == 200


async def test_a_password_whose_user_was_deleted_meanwhile_makes_no_other(house: House, moody: Moody) -> None:
    """It proves who they were; that the mailbox is theirs, nobody has proved anew."""
    made = await with_password(house)
    moody.meanwhile = lambda: house.client.request("DELETE", "/v1/auth/me", token=made["access_token"])
    assert (await enter(house, GOOD)).code == "invalid_grant"
    assert await house.rows("SELECT id, status FROM users") == [(made["user"]["id"], "deleting")]


async def test_a_password_lets_nobody_in_to_another_account(house: House) -> None:
    """The mailbox is one user's way in, and an outside provider says it is another's, who has a password."""
    ann = await house.sign_in()
    await house.sign_in("bob@example.com", token=ann["access_token"], link=True)
    proof = google("g1", "bob@example.com")
    other = await house.lowtide.accounts.sign_in.complete(proof, ask_for())
    assert isinstance(other, Signed)
    assert other.user.id != ann["user"]["id"]
    assert (await change(house, other.access_token, password=GOOD)).status == 204
    assert (await enter(house, GOOD, "bob@example.com")).code == "invalid_grant"


async def test_a_new_password_ends_what_waits_for_the_second_factor(house: House) -> None:
    """Whoever knew the old one is not half in for ten minutes more."""
    session, phone = await enrolled(house)
    for word in (GOOD, OTHER):
        given = await ticket(house)
        assert (await change(house, session["access_token"], password=word)).status == 204
        assert (await second(house, given, phone.code())).code == "invalid_grant"
        await house.messages(1)


@pytest.mark.parametrize(("method", "path"), [("PUT", "me/password"), ("POST", "me/second-factor")])
async def test_who_waits_for_the_user_is_looked_at_afterwards(
    house: House, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Whoever copied a token, and comes while its owner sets a new password: the sessions that this ends
    change nothing once it is committed."""
    thief, users = await house.sign_in(), house.lowtide.accounts.users
    get = users.get

    async def waited(tx: Tx, id: str) -> User:
        # What another node has committed by the time that the row is free.
        await house.lowtide.accounts.sessions.revoke_all(tx, id, "user")
        return await get(tx, id)

    with monkeypatch.context() as patch:
        patch.setattr(users, "get", waited)
        body = {"password": GOOD} if method == "PUT" else None
        token = thief["access_token"]
        answer = await house.client.request(method, f"/v1/auth/{path}", json=body, token=token)
    assert answer.code == "session_revoked"
    assert await house.rows("SELECT user_id FROM password UNION SELECT user_id FROM totp") == []
