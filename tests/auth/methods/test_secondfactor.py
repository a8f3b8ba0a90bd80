"""The second factor, from its setting up to the day on which the phone is gone."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from lowtide.auth.methods.tries import HERE, SIGNED_IN
from tests.api.client import Answer
from tests.auth.methods.conftest import House

pytestmark = pytest.mark.anyio

MINE = "me/second-factor"
GOOD = "seven grey herons wait"


class Phone:
    """Ann's authenticator app, and what she wrote down."""

    def __init__(self, house: House, secret: str):
        self.house = house
        self.totp = pyotp.TOTP(secret)
        self.recovery: list[str] = []

    def code(self, steps: int = 0) -> str:
        """What it shows, or showed ``-steps`` ago."""
        return self.totp.at(self.house.clock.now() // 1000 + 30 * steps)


async def enrolled(house: House) -> tuple[dict[str, Any], Phone]:
    """Ann, signed in, with a second factor."""
    session = await house.sign_in()
    token = session["access_token"]
    made = (await house.client.post(f"/v1/auth/{MINE}", token=token)).json()
    phone = Phone(house, made["secret"])
    answer = await house.post(f"{MINE}/confirm", token, code=phone.code())
    assert answer.status == 200, answer.body
    phone.recovery = answer.json()["recovery_codes"]
    house.clock.advance(60)
    return session, phone


async def ticket(house: House) -> str:
    """The first factor is right."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    answer = await house.post("email/finish", flow_id=flow["flow_id"], code=await house.code())
    assert (answer.status, answer.json()["status"]) == (200, "second_factor_needed")
    assert "access_token" not in answer.json()
    return str(answer.json()["ticket"])


async def second(house: House, given: str, code: str, ip: str | None = None) -> Answer:
    client = house.client if ip is None else house.at(ip)
    return await client.post("/v1/auth/second-factor", json={"ticket": given, "code": code})


async def test_the_code_finishes_the_sign_in(house: House) -> None:
    """The first factor alone gives a ticket and no token; with the code it is a session that says how."""
    session, phone = await enrolled(house)
    given = await ticket(house)
    answer = await second(house, given, phone.code())
    assert (answer.status, answer.json()["user"]["id"]) == (200, session["user"]["id"])
    assert set(house.lowtide.tokens.verify(answer.json()["access_token"]).amr) == {"otp", "mfa"}
    assert (await second(house, given, phone.code(1))).code == "invalid_grant"


async def test_what_is_not_confirmed_is_not_asked_for(house: House) -> None:
    """Whoever closes the app before the first code is not locked out."""
    session = await house.sign_in()
    for _ in range(2):
        await house.client.post(f"/v1/auth/{MINE}", token=session["access_token"])
    wrong = await house.post(f"{MINE}/confirm", session["access_token"], code="000000")
    assert wrong.code == "invalid_grant"
    assert "access_token" in await house.sign_in()


async def test_the_address_of_the_secret_is_what_authenticators_read(house: House) -> None:
    """otpauth, with the app's name and the user's, and the secret in base 32."""
    session = await house.sign_in()
    made = (await house.client.post(f"/v1/auth/{MINE}", token=session["access_token"])).json()
    parts = urlsplit(made["uri"])
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/notes%3Aann%40example.com")
    assert parse_qs(parts.query) == {"secret": [made["secret"]], "issuer": ["notes"]}
    assert pyotp.parse_uri(made["uri"]).secret == made["secret"]


async def test_a_code_counts_once(house: House) -> None:
    """Whoever looked over the shoulder cannot use it again, nor the one before it."""
    _, phone = await enrolled(house)
    code, before = phone.code(), phone.code(-1)
    one, two = await ticket(house), await ticket(house)
    assert (await second(house, one, code)).status == 200
    for late in (code, before):
        assert (await second(house, two, late)).code == "invalid_grant"
    house.clock.advance(30)
    assert (await second(house, two, phone.code())).status == 200


async def test_a_code_that_is_sent_twice_at_once_counts_once(house: House) -> None:
    """Two devices with one code are one session."""
    _, phone = await enrolled(house)
    tickets = [await ticket(house) for _ in range(3)]
    answers = await asyncio.gather(*(second(house, given, phone.code()) for given in tickets))
    assert sorted(answer.status for answer in answers) == [200, 401, 401]


@pytest.mark.parametrize(("steps", "status"), [(-2, 401), (-1, 200), (1, 200), (2, 401)])
async def test_clocks_may_differ_by_a_step(house: House, steps: int, status: int) -> None:
    """30 seconds early or late are right, a minute is not."""
    _, phone = await enrolled(house)
    assert (await second(house, await ticket(house), phone.code(steps))).status == status


async def test_recovery_codes_replace_a_lost_phone_once_each(house: House) -> None:
    """Ten of them, good once, however they are typed; none is kept as it is."""
    _, phone = await enrolled(house)
    assert len(set(phone.recovery)) == 10
    kept = str(await house.rows("SELECT * FROM recovery_code"))
    assert not any(code.replace("-", "") in kept for code in phone.recovery)
    first, other = phone.recovery[:2]
    assert (await second(house, await ticket(house), first)).status == 200
    assert (await second(house, await ticket(house), first)).status == 401
    typed = f" {other.upper().replace('-', ' ')} "
    assert (await second(house, await ticket(house), typed)).status == 200
    assert await house.audited("second_factor.used_recovery_code") == 2


async def test_new_recovery_codes_end_the_old_ones(house: House) -> None:
    """A paper that was lost is worth nothing."""
    session, phone = await enrolled(house)
    made = (await house.client.post(f"/v1/auth/{MINE}/recovery-codes", token=session["access_token"])).json()
    assert (await second(house, await ticket(house), phone.recovery[0])).status == 401
    assert (await second(house, await ticket(house), made["recovery_codes"][0])).status == 200


async def test_the_secret_is_sealed(house: House) -> None:
    """Whoever reads the database makes no codes."""
    _, phone = await enrolled(house)
    kept = str(await house.rows("SELECT * FROM totp"))
    assert phone.totp.secret not in kept
    assert phone.totp.byte_secret().hex() not in kept


async def test_wrong_codes_slow_down_and_lock_nobody_out(house: House) -> None:
    """Whoever has the first factor tries five codes, then one in 90 s; elsewhere the right one counts."""
    _, phone = await enrolled(house)
    given = await ticket(house)
    answers = [await second(house, given, "123123") for _ in range(HERE.most + 2)]
    assert [answer.status for answer in answers] == [401] * HERE.most + [429] * 2
    assert (await second(house, given, phone.code(), ip="198.51.100.1")).status == 200


async def test_a_confirmation_cannot_be_tried_for_ever(house: House) -> None:
    """Codes for a new authenticator are counted, too."""
    token = (await house.sign_in())["access_token"]
    await house.client.post(f"/v1/auth/{MINE}", token=token)
    answers = [await house.post(f"{MINE}/confirm", token, code="123123") for _ in range(SIGNED_IN.most + 1)]
    assert [answer.status for answer in answers] == [401] * SIGNED_IN.most + [429]


async def test_a_change_takes_a_fresh_sign_in(house: House) -> None:
    """On a phone that was left on a table it is neither added, nor taken away, nor copied."""
    session, _ = await enrolled(house)
    house.clock.advance(601)
    token = await house.refreshed(session)
    for method, path in (("POST", MINE), ("DELETE", MINE), ("POST", f"{MINE}/recovery-codes")):
        answer = await house.client.request(method, f"/v1/auth/{path}", token=token)
        assert answer.code == "step_up_required", path
    assert await ticket(house)


async def test_it_is_set_up_once_and_taken_away(house: House) -> None:
    """A second one does not replace the first; without it the first factor is enough again."""
    session, _ = await enrolled(house)
    token = session["access_token"]
    assert (await house.client.post(f"/v1/auth/{MINE}", token=token)).code == "conflict"
    assert (await house.client.request("DELETE", f"/v1/auth/{MINE}", token=token)).status == 204
    assert "access_token" in await house.sign_in()
    assert await house.rows("SELECT * FROM recovery_code") == []


async def test_a_short_password_needs_it(house: House) -> None:
    """Beside it 8 characters suffice; then it cannot go before the password is long enough to stand alone."""
    session, _ = await enrolled(house)
    token = session["access_token"]

    async def change(password: str) -> Answer:
        return await house.client.request(
            "PUT", "/v1/auth/me/password", json={"password": password}, token=token
        )

    assert (await change("v7#pQz!")).json()["reason"] == "too_short"
    assert (await change("v7#pQz!9")).status == 204
    refused = await house.client.request("DELETE", f"/v1/auth/{MINE}", token=token)
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await change(GOOD)).status == 204
    assert (await house.client.request("DELETE", f"/v1/auth/{MINE}", token=token)).status == 204


async def test_a_mailbox_alone_does_not_reset_a_password(house: House) -> None:
    """Whoever reads the mail and has no code gets a ticket, and the password stays as it was."""
    await enrolled(house)
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    answer = await house.post("password/set", flow_id=flow["flow_id"], code=code, password=GOOD)
    assert answer.json()["status"] == "second_factor_needed"
    assert await house.rows("SELECT * FROM password") == []


@pytest.mark.parametrize("given", ["", "x", "0" * 64])
async def test_a_ticket_that_is_none_is_refused(house: House, given: str) -> None:
    """Nothing is tried for a ticket that nobody was given."""
    assert (await second(house, given, "123456")).code == "invalid_grant"
