"""Taking away and redeeming at the same moment, in two real transactions: no order lets anything through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from tests.auth.provider.test_consents import CONSENTS, agreed, own
from tests.auth.provider.world import AUTHORIZE, FIRST, THIRD, TOKEN, Flow, Form, House, housed
from tests.auth.world import code as proof_of
from tests.conftest import MakeDatabase

pytestmark = pytest.mark.anyio

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
async def house(make_database: MakeDatabase, clock: ManualClock, ids: SeededIds) -> AsyncIterator[House]:
    """A provider on PostgreSQL, where two may write at once."""
    async with housed(await make_database("postgres"), clock, ids) as house:
        yield house


class Halt:
    """A transaction that has come to a place, and waits there."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()


@contextmanager
def halted(store: Any, name: str, *, behind: bool = False) -> Iterator[Halt]:
    """Whoever calls ``store.name`` first halts before it, or behind it."""
    halt, whole = Halt(), getattr(store, name)

    async def wait() -> None:
        if not halt.reached.is_set():
            halt.reached.set()
            await halt.go.wait()

    async def stop(*given: Any) -> Any:
        if not behind:
            await wait()
        done = await whole(*given)
        if behind:
            await wait()
        return done

    with patch.object(store, name, stop):
        yield halt


async def in_turn(house: House, halt: Halt, first: Any, second: Any) -> tuple[Any, Any]:
    """What both come to, when ``second`` meets a ``first`` that has not committed, and has to wait for it."""
    one = asyncio.create_task(first)
    await halt.reached.wait()
    two = asyncio.create_task(second)
    try:
        async with asyncio.timeout(20):
            while (await house.world.rows(WAITING))[0][0] == 0:
                assert not two.done(), "nothing kept the second from going first"
    finally:
        halt.go.set()
        done = await asyncio.gather(one, two)
    return done[0], done[1]


async def sessions(house: House, client: str) -> int:
    """Sessions of a client that go on."""
    found = await house.world.rows("SELECT ended_at FROM session WHERE client = ?", client)
    return sum(ended is None for (ended,) in found)


class TestWithdrawal:
    async def test_a_code_that_is_being_redeemed_gives_no_session_that_stays(self, house: House) -> None:
        """The redemption commits first; the withdrawal has waited, and ends what it gave."""
        browser, late = house.browser(), Flow(THIRD)
        await agreed(house, browser)
        code = late.code(await browser.get(f"{AUTHORIZE}?{late.query()}"))
        mine = await own(house)
        with halted(house.provider.store, "use_code") as halt:
            given, withdrawn = await in_turn(
                house,
                halt,
                house.post(TOKEN, late.redeem(code)),
                house.http.request("DELETE", f"{CONSENTS}/third", token=mine),
            )
        assert (given.status, withdrawn.status) == (200, 204)
        assert await sessions(house, "third") == 0
        refresh = {"grant_type": "refresh_token", "client_id": "third"}
        answer = await house.post(TOKEN, refresh | {"refresh_token": given.json()["refresh_token"]})
        assert answer.json()["error"] == "invalid_grant"

    async def test_a_code_is_not_redeemed_behind_a_withdrawal(self, house: House) -> None:
        """The withdrawal has read the sessions; the redemption has waited, and makes none."""
        browser, late = house.browser(), Flow(THIRD)
        await agreed(house, browser)
        code = late.code(await browser.get(f"{AUTHORIZE}?{late.query()}"))
        mine = await own(house)
        with halted(house.provider.store, "withdraw", behind=True) as halt:
            withdrawn, given = await in_turn(
                house,
                halt,
                house.http.request("DELETE", f"{CONSENTS}/third", token=mine),
                house.post(TOKEN, late.redeem(code)),
            )
        assert (withdrawn.status, given.json()["error"]) == (204, "invalid_grant")
        assert await sessions(house, "third") == 0

    async def test_a_code_that_is_being_given_is_ended(self, house: House) -> None:
        """The app has its code, which is worth nothing by then."""
        browser, late = house.browser(), Flow(THIRD)
        await agreed(house, browser)
        mine = await own(house)
        with halted(house.provider.store, "put_code") as halt:
            back, withdrawn = await in_turn(
                house,
                halt,
                browser.get(f"{AUTHORIZE}?{late.query()}"),
                house.http.request("DELETE", f"{CONSENTS}/third", token=mine),
            )
        assert withdrawn.status == 204
        answer = await house.post(TOKEN, late.redeem(late.code(back)))
        assert answer.json()["error"] == "invalid_grant"
        assert await sessions(house, "third") == 0

    async def test_no_code_is_given_behind_a_withdrawal(self, house: House) -> None:
        """Whoever was about to give one asks the user again."""
        browser, late = house.browser(), Flow(THIRD)
        await agreed(house, browser)
        mine = await own(house)
        with halted(house.provider.store, "withdraw", behind=True) as halt:
            withdrawn, page = await in_turn(
                house,
                halt,
                house.http.request("DELETE", f"{CONSENTS}/third", token=mine),
                browser.get(f"{AUTHORIZE}?{late.query()}"),
            )
        assert (withdrawn.status, page.status) == (204, 200)
        assert "consent" in Form(page.body).forms


class TestDeletedClient:
    @pytest.mark.parametrize("given_first", [True, False])
    async def test_no_token_of_it_is_left(self, house: House, given_first: bool) -> None:
        """A code that is being redeemed: before, and its session is ended; behind, and there is none."""
        admin = house.world.tokens.sign("backend", server=True)
        new = {"id": "new", "name": "New", "redirect_uris": ["com.example.new:/cb"], "first_party": True}
        await house.http.request("PUT", "/v1/admin/clients/new", json=new, token=admin)
        flow = Flow(redirect_uri="com.example.new:/cb", client_id="new")
        redeems = house.post(TOKEN, flow.redeem(await house.sign_in(flow), client_id="new"))
        deletes = house.http.request("DELETE", "/v1/admin/clients/new", token=admin)
        if given_first:
            with halted(house.provider.store, "use_code") as halt:
                given, gone = await in_turn(house, halt, redeems, deletes)
        else:
            with halted(house.provider.store, "delete_client", behind=True) as halt:
                gone, given = await in_turn(house, halt, deletes, redeems)
        assert (given.status, gone.status) == (200 if given_first else 400, 204)
        assert await sessions(house, "new") == 0


class TestSignOutEverywhere:
    @pytest.mark.parametrize("given_first", [True, False])
    async def test_no_browser_is_given_a_code_meanwhile(self, house: House, given_first: bool) -> None:
        """Before, and the code is ended; behind, and there is none: the page asks who it is."""
        browser, flow = house.browser(), Flow(FIRST)
        await house.sign_in(Flow(FIRST), browser=browser)
        who = house.world.who(await house.world.enter(proof_of("ann@example.com")))
        sign_out = house.world.write(lambda tx: house.world.sessions.revoke_all(tx, who.user, "operator"))
        gets = browser.get(f"{AUTHORIZE}?{flow.query()}")
        if given_first:
            with halted(house.provider.store, "put_code") as halt:
                back, _ = await in_turn(house, halt, gets, sign_out)
            answer = await house.post(TOKEN, flow.redeem(flow.code(back)))
            assert answer.json()["error"] == "invalid_grant"
        else:
            with halted(house.world.sessions, "revoke_all", behind=True) as halt:
                _, page = await in_turn(house, halt, sign_out, gets)
            assert "email" in Form(page.body).forms
        assert await sessions(house, "first") == 0
