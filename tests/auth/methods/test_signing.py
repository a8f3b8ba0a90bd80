"""What the ends of all methods have in common: what is wrong is found before a proof is used up."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.auth.sessions import ACCESS
from tests.auth.methods.conftest import House
from tests.auth.methods.test_secondfactor import enrolled, ticket

pytestmark = pytest.mark.anyio

ANN = "ann@example.com"
GOOD = "seven grey herons wait"


async def flow(house: House, email: str = ANN) -> dict[str, Any]:
    """A flow and its code."""
    began = (await house.post("email/start", email=email)).json()
    return {"flow_id": began["flow_id"], "code": await house.code()}


class TestBefore:
    """A code is used up only by a request that can be answered."""

    @pytest.mark.parametrize(("path", "more"), [("email/finish", {}), ("password/set", {"password": GOOD})])
    async def test_an_expired_token_burns_no_code(
        self, house: House, path: str, more: dict[str, str]
    ) -> None:
        """The phone fetches a new token, or leaves it out, and sends the same code again."""
        guest = (await house.post("anonymous")).json()
        house.clock.advance(ACCESS + 120)
        sent = {**await flow(house), **more}
        refused = await house.post(path, guest["access_token"], **sent)
        assert (refused.status, refused.code) == (401, "token_expired")
        answer = await house.post(path, await house.refreshed(guest), **sent)
        assert (answer.status, answer.json()["outcome"]) == (200, "upgraded")
        assert answer.json()["user"]["id"] == guest["user"]["id"]
        assert (await house.post(path, None, **sent)).code == "invalid_grant", "and then it is used"

    async def test_a_bad_proof_of_a_key_burns_no_code(self, house: House) -> None:
        """The same for a DPoP proof that does not count."""
        sent = await flow(house)
        headers = {"dpop": "nonsense"}
        refused = await house.client.post("/v1/auth/email/finish", json=sent, headers=headers)
        assert (refused.status, refused.code) == (401, "invalid_dpop_proof")
        assert (await house.post("email/finish", **sent)).status == 200

    async def test_an_expired_token_burns_no_second_factor(self, house: House) -> None:
        """Neither the authenticator's code nor the ticket."""
        session, phone = await enrolled(house)
        house.clock.advance(ACCESS + 120)
        sent = {"ticket": await ticket(house), "code": phone.code()}
        refused = await house.post("second-factor", session["access_token"], **sent)
        assert (refused.status, refused.code) == (401, "token_expired")
        assert (await house.post("second-factor", None, **sent)).status == 200


class TestLinking:
    """An account gets another way in by its own user's hand."""

    async def test_another_address_becomes_a_way_in(self, house: House) -> None:
        """With the token of the account; the session goes on, and nobody new is made."""
        ann = await house.sign_in()
        sent = await flow(house, "ann@work.example")
        answer = await house.post("email/finish", ann["access_token"], link=True, **sent)
        assert (answer.status, answer.json()["session_id"]) == (200, ann["session_id"])
        assert answer.json()["user"]["email"] == ANN
        again = await house.sign_in("ann@work.example")
        assert again["user"]["id"] == ann["user"]["id"]

    async def test_nobody_links_without_a_fresh_sign_in(self, house: House) -> None:
        """Nor without a token; the code stays good, and no account is made."""
        ann = await house.sign_in()
        house.clock.advance(901)
        old = await house.refreshed(ann)
        sent = await flow(house, "ann@work.example")
        assert (await house.post("email/finish", None, link=True, **sent)).code == "unauthorized"
        assert (await house.post("email/finish", old, link=True, **sent)).code == "step_up_required"
        assert len(await house.rows("SELECT id FROM users")) == 1
        assert (await house.post("email/finish", None, **sent)).json()["outcome"] == "created"

    async def test_anothers_way_in_is_not_linked(self, house: House) -> None:
        """The account that has it keeps it."""
        bob = await house.sign_in("bob@example.com")
        ann = await house.sign_in()
        answer = await house.post(
            "email/finish", ann["access_token"], link=True, **await flow(house, "bob@example.com")
        )
        assert (answer.status, answer.code) == (409, "identity_taken")
        assert (await house.sign_in("bob@example.com"))["user"]["id"] == bob["user"]["id"]

    async def test_a_guest_who_links_becomes_nobody_else(self, house: House) -> None:
        """Without ``link`` they would be signed in as Bob; an address that is free upgrades them."""
        bob, guest = await house.sign_in("bob@example.com"), (await house.post("anonymous")).json()
        token = guest["access_token"]
        answer = await house.post("email/finish", token, link=True, **await flow(house, "bob@example.com"))
        assert (answer.status, answer.code) == (409, "identity_taken")
        answer = await house.post("email/finish", token, link=True, **await flow(house))
        assert (answer.json()["outcome"], answer.json()["user"]["id"]) == ("upgraded", guest["user"]["id"])
        assert guest["user"]["id"] != bob["user"]["id"]
