"""Strangers who know an address or a password do not keep its owner from signing in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lowtide.auth.methods import email, sms
from lowtide.auth.methods.tries import ACCOUNT, NOTICED, WRONG
from lowtide.auth.model import Ask, SecondFactorNeeded
from lowtide.storage.rates import SharedRates
from tests.api.client import Answer
from tests.auth.methods.conftest import House
from tests.auth.methods.test_secondfactor import enrolled, second

pytestmark = pytest.mark.anyio

ANN = "ann@example.com"
NUMBER = "+41446681800"
PHONE = {"installation": "8b1f0c55-ann-phone", "name": "Ann's phone"}
GOOD = "seven grey herons wait"


async def flooded(house: House, path: str, body: dict[str, Any], count: int) -> Answer:
    """Strangers in as many networks ask for the same; what the last one hears."""
    answers = [
        await house.at(f"198.51.100.{number}").post(f"/v1/auth/{path}", json=body) for number in range(count)
    ]
    return answers[-1]


async def mails_used_up(house: House) -> None:
    """Strangers have asked for as many mails as an address gets."""
    refused = await flooded(house, "email/start", {"email": ANN}, email.PER_ADDRESS[0].count + 1)
    assert refused.status == 429


async def ticket_of(house: House) -> str:
    """The first factor is right, without a mail."""
    needed = await house.lowtide.accounts.sign_in.complete(email.email_proof(ANN), Ask())
    assert isinstance(needed, SecondFactorNeeded)
    return needed.ticket


class TestMessages:
    """Codes by mail and by text message."""

    async def test_a_known_device_gets_its_mail(self, house: House) -> None:
        """By its installation id, also after it has signed out; and what it gets is bounded, too."""
        session = await house.sign_in(device=PHONE)
        await house.post("sign-out", session["access_token"])
        await mails_used_up(house)
        assert (await house.post("email/start", email=ANN)).status == 429
        most = email.PER_DEVICE[0].count
        answers = [await house.post("email/start", email=ANN, device=PHONE) for _ in range(most + 1)]
        assert [answer.status for answer in answers] == [200] * most + [429]

    @pytest.mark.parametrize("installation", ["", "short", "made-up-000000000000", "bob-phone-0123456789"])
    async def test_a_strangers_device_is_not_known(self, house: House, installation: str) -> None:
        """Neither one that guesses, nor its owner's own; nor an id that is too short to be secret."""
        await house.sign_in(device={"installation": "short"})
        await house.sign_in("bob@example.com", device={"installation": "bob-phone-0123456789"})
        await mails_used_up(house)
        device = {"installation": installation}
        assert (await house.post("email/start", email=ANN, device=device)).status == 429

    async def test_a_device_that_was_signed_out_from_elsewhere_is_not_known(self, house: House) -> None:
        """It may have been a thief's."""
        await house.sign_in(device=PHONE)
        other = await house.sign_in()
        assert (await house.post("sessions/end-others", other["access_token"])).status == 204
        await mails_used_up(house)
        assert (await house.post("email/start", email=ANN, device=PHONE)).status == 429

    async def test_who_never_proved_the_address_has_no_device(self, house: House) -> None:
        """Else whoever signed up with a stranger's address could fill that mailbox."""
        session = await house.sign_in(device=PHONE)
        await house.write("UPDATE users SET email_verified = 0 WHERE id = $1", session["user"]["id"])
        await mails_used_up(house)
        assert (await house.post("email/start", email=ANN, device=PHONE)).status == 429

    async def test_a_known_device_gets_its_text(self, house: House) -> None:
        """Also while strangers have used up what its whole country gets."""
        house.lowtide.methods.sms._per_country = type(email.PER_NETWORK)(sms.PER_NUMBER[0].count + 3, 3600)
        flow = (await house.post("sms/start", phone=NUMBER)).json()
        (sent,) = await house.messages(1)
        done = {"flow_id": flow["flow_id"], "code": sent["text"][:8], "device": PHONE}
        assert (await house.post("sms/finish", **done)).status == 200
        await flooded(house, "sms/start", {"phone": NUMBER}, sms.PER_NUMBER[0].count)
        for number in range(1, 4):
            await house.at(f"192.0.2.{number}").post(
                "/v1/auth/sms/start", json={"phone": f"+4144668180{number}"}
            )
        for phone in (NUMBER, "+41446681899"):
            assert (await house.post("sms/start", phone=phone)).status == 429
        assert (await house.post("sms/start", phone=NUMBER, device=PHONE)).status == 200

    async def test_what_is_kept_of_exhausted_codes_names_nobody_unknown(self, house: House) -> None:
        """The audit log learns no address of somebody who has no account."""
        await house.sign_in()
        for to in (ANN, "nobody@example.com"):
            flow = (await house.post("email/start", email=to)).json()
            for _ in range(5):
                await house.post("email/finish", flow_id=flow["flow_id"], code="00000000")
        assert await house.audited("sign_in.code_exhausted") == 2
        kept = str(await house.rows("SELECT personal FROM audit_detail"))
        assert ANN in kept
        assert "nobody@example.com" not in kept


async def test_a_known_device_signs_in_with_its_password(house: House) -> None:
    """However many strangers try others."""
    flow = (await house.post("email/start", email=ANN)).json()
    sent = {"flow_id": flow["flow_id"], "code": await house.code(), "device": PHONE}
    assert (await house.post("password/set", password=GOOD, **sent)).status == 200
    guess = {"email": ANN, "password": "is it perhaps this"}
    assert (await flooded(house, "password", guess, ACCOUNT.most + 1)).status == 429
    assert (await house.post("password", email=ANN, password=GOOD)).status == 429
    assert (await house.post("password", email=ANN, password=GOOD, device=PHONE)).status == 200


class TestSecondFactor:
    """Whoever has the first factor guesses the second."""

    async def guess(self, house: House, given: str, count: int) -> list[int]:
        """Wrong codes from a stranger's networks, as fast as the tries of an hour allow."""
        statuses = []
        for number in range(count):
            house.clock.advance(61)
            statuses.append((await second(house, given, "123123", ip=f"198.51.100.{number % 9}")).status)
            if number % 8 == 7:
                given = await ticket_of(house)
        return statuses

    async def test_a_day_has_so_many_wrong_codes(self, house: House) -> None:
        """Then none counts from where nobody knows the user, not even the right one; paper does, and a known
        network. A day later it is forgotten."""
        _, phone = await enrolled(house)
        statuses = await self.guess(house, await ticket_of(house), WRONG.count + 3)
        assert statuses[: WRONG.count] == [401] * WRONG.count
        assert statuses[-1] == 429
        given = await ticket_of(house)
        strange = "203.0.113.99"
        refused = await second(house, given, phone.code(), ip=strange)
        assert (refused.status, "recovery code" in refused.json()["hint"]) == (429, True)
        assert (await second(house, await ticket_of(house), phone.recovery[0], ip=strange)).status == 200
        assert (await second(house, given, phone.code())).status == 200, "the owner's own network"
        house.clock.advance(WRONG.seconds)
        assert (await second(house, await ticket_of(house), phone.code(), ip="203.0.113.98")).status == 200

    async def test_guesses_at_the_same_moment_are_counted_one_after_the_other(self, house: House) -> None:
        """Where one more may be wrong today, of several that come together one is compared."""
        session, _ = await enrolled(house)
        rates, key = SharedRates(house.lowtide.database, house.clock), f"{session['user']['id']} "
        await rates.take("totp.wrong", key, WRONG, WRONG.count - 1)
        given = await ticket_of(house)
        guesses = (second(house, given, "000000", f"198.51.100.{number}") for number in range(6))
        statuses = [answer.status for answer in await asyncio.gather(*guesses)]
        assert sorted(statuses) == [401] + [429] * 5

    async def test_a_known_device_counts_by_itself(self, house: House) -> None:
        """In a network where the user has never been."""
        session, phone = await enrolled(house)
        await house.write(
            "UPDATE session SET device = $2, ip = '192.0.2.1' WHERE id = $1",
            session["session_id"],
            '{"installation": "8b1f0c55-ann-phone"}',
        )
        await self.guess(house, await ticket_of(house), WRONG.count + 1)
        sent = {"ticket": await ticket_of(house), "code": phone.code()}
        assert (await house.post("second-factor", **sent)).status == 429
        assert (await house.post("second-factor", **sent, device=PHONE)).status == 200

    async def test_the_user_is_told_once_a_day(self, house: House) -> None:
        """By mail and in the audit log, at the fifth wrong code, and not at each further one."""
        await enrolled(house)
        given = await ticket_of(house)
        for _ in range(NOTICED.count - 1):
            await second(house, given, "123123")
        assert await house.audited("second_factor.guessed") == 0
        await second(house, given, "0000-1111-2222-3333", ip="198.51.100.2")
        (mail,) = await house.messages(1)
        assert (mail["to"], "second factor" in mail["subject"]) == (ANN, True)
        assert "set a new password" in mail["text"]
        await second(house, given, "123123", ip="198.51.100.3")
        assert await house.audited("second_factor.guessed") == 1
        assert await house.audited("second_factor.wrong") == NOTICED.count + 1
        assert (await house.client.get("/dev/outbox.json")).json()["messages"][0] == mail
