"""Limits on how often somebody may ask: who pays for whom, and what is said about it."""

from __future__ import annotations

import re

import pytest

from lowtide.api.edge import Edge
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.api.rates import ALLOWANCES, FORGED, STALE, Rates, network
from lowtide.auth.tokens import Tokens
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import TooManyRequests
from lowtide.kernel.http import Rate
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from tests.api.client import Answer, Client
from tests.api.edges import Handlers, build
from tests.auth.ring import NOW, Ring

ANN = Principal(user="ann", session="phone")
Headers = list[tuple[bytes, bytes]]


def passed(
    rates: Rates, kind: Rate, who: Principal | None, client: str = "192.0.2.1", most: int = 5_000
) -> int:
    """How many of ``most`` requests at once are let through."""
    for number in range(most):
        try:
            rates.take(kind, who, client, [])
        except TooManyRequests:
            return number
    return most


class TestWhoIsCounted:
    def test_a_session_is_limited_and_another_device_goes_on(self, clock: ManualClock) -> None:
        """A device that runs wild is stopped; the same user's other one is not."""
        rates = Rates(clock)
        assert passed(rates, "read", ANN) == ALLOWANCES["read"].session
        assert passed(rates, "read", Principal(user="ann", session="tablet")) > 0

    def test_many_sessions_are_one_account(self, clock: ManualClock) -> None:
        """More sign-ins do not mean more requests than the account has."""
        rates = Rates(clock)
        total = sum(passed(rates, "read", Principal(user="ann", session=str(n))) for n in range(20))
        assert total == ALLOWANCES["read"].account

    def test_phones_behind_one_address_do_not_pay_for_each_other(self, clock: ManualClock) -> None:
        """Signed-in users of one carrier's address are counted apart, also when strangers there flood."""
        rates = Rates(clock)
        assert passed(rates, "auth", None) == ALLOWANCES["auth"].network
        for number in range(500):
            assert passed(rates, "sync", Principal(user=f"u{number}", session=f"s{number}"), most=20) == 20

    def test_networks_are_apart(self, clock: ManualClock) -> None:
        """Without a token, an address is counted; the next one has its own count."""
        rates = Rates(clock)
        assert passed(rates, "auth", None, "192.0.2.1") == ALLOWANCES["auth"].network
        assert passed(rates, "auth", None, "192.0.2.2", most=10) == 10

    def test_an_ipv6_customer_is_one_network(self, clock: ManualClock) -> None:
        """The 2^64 addresses of one line are one, however they are written."""
        rates = Rates(clock)
        assert passed(rates, "auth", None, "2001:db8:1:2::1") == ALLOWANCES["auth"].network
        assert passed(rates, "auth", None, "2001:db8:1:2:ffff:ffff:ffff:ffff") == 0
        assert passed(rates, "auth", None, "2001:0db8:0001:0002::99") == 0
        assert passed(rates, "auth", None, "2001:db8:1:3::1", most=10) == 10

    def test_spaces_are_apart(self, clock: ManualClock) -> None:
        """The same id in another space is another user."""
        rates = Rates(clock)
        passed(rates, "read", Principal(user="ann"))
        assert passed(rates, "read", Principal(user="ann", space="other"), most=10) == 10

    def test_classes_are_apart(self, clock: ManualClock) -> None:
        """Who has read too much can still upload."""
        rates = Rates(clock)
        passed(rates, "read", ANN)
        assert passed(rates, "sync", ANN, most=100) == 100

    def test_phones_are_told_only_of_what_is_short(self, clock: ManualClock) -> None:
        """Half of the class "sync" is silent, the other half and every refusal say what is left."""
        rates = Rates(clock)
        said = []
        for _ in range(ALLOWANCES["sync"].account):
            added: list[tuple[bytes, bytes]] = []
            rates.take("sync", Principal(user="ann"), "192.0.2.1", added)
            said.append([name for name, _ in added])
        half = len(said) // 2
        assert said == [[]] * half + [[b"ratelimit-policy", b"ratelimit"]] * half
        refused: list[tuple[bytes, bytes]] = []
        with pytest.raises(TooManyRequests):
            rates.take("sync", Principal(user="ann"), "192.0.2.1", refused)
        assert [name for name, _ in refused] == [b"ratelimit-policy", b"ratelimit"]

    def test_the_apps_own_servers_are_not_limited(self, clock: ManualClock) -> None:
        """Nor are addresses of the class "none"."""
        rates = Rates(clock)
        assert passed(rates, "write", Principal(user="app", server=True)) == 5_000
        assert passed(rates, "none", None) == 5_000

    def test_the_setting_multiplies(self, clock: ManualClock) -> None:
        """Twice the setting is twice the requests, and never less than one."""
        assert passed(Rates(clock, 2), "write", None) == 2 * ALLOWANCES["write"].network
        assert passed(Rates(clock, 0.0001), "write", None) == 1

    @pytest.mark.parametrize(
        ("client", "key"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "20010db800000000"),
            ("fe80::1%eth0", "fe80000000000000"),
            ("", ""),
            ("no:address", "no:address"),
        ],
    )
    def test_what_counts_as_a_network(self, client: str, key: str) -> None:
        """Whatever a proxy says the client is has a key."""
        assert network(client) == key


@pytest.mark.anyio
class TestTheEdge:
    async def test_what_is_left_is_said(self) -> None:
        """Each answer names the limit that is nearest to its end, in the form of the draft."""
        client = Client(build(Handlers(), rates=1))
        answer = await client.get("/notes", headers={"authorization": "Bearer ann"})
        most = ALLOWANCES["read"].account
        assert answer.headers["ratelimit-policy"] == f'"read-account";q={most};w=60'
        assert answer.headers["ratelimit"] == f'"read-account";r={most - 1};t=1'
        open_answer = await client.get("/open")
        assert open_answer.headers["ratelimit-policy"].startswith('"read-network";')

    async def test_beyond_the_limit_it_is_429(self) -> None:
        """The answer says when to come again, the handler is not run, and health checks go on."""
        handlers = Handlers()
        client = Client(build(handlers, rates=0.01))
        most = round(ALLOWANCES["read"].account * 0.01)
        answers = [
            await client.get("/notes", headers={"authorization": "Bearer ann"}) for _ in range(most + 1)
        ]
        assert [answer.status for answer in answers] == [200] * most + [429]
        refused = answers[-1]
        assert refused.code == "too_many_requests"
        assert refused.headers["retry-after"] == "5"
        assert re.fullmatch(r'"read-account";r=0;t=\d+', refused.headers["ratelimit"])
        assert len(handlers.requests) == most
        assert (await client.get("/health/live")).status == 200
        assert (await client.get("/open")).status == 204

    async def test_without_limits_nothing_is_said(self) -> None:
        """Switched off, there is neither a header nor a refusal."""
        answer = await Client(build(Handlers())).get("/open")
        assert "ratelimit" not in answer.headers

    async def test_a_refused_token_is_not_counted_to_anybody(self) -> None:
        """Bad tokens do not use up a user's or a neighbour's limit."""
        client = Client(build(Handlers(), rates=0.01))
        for _ in range(50):
            assert (await client.get("/notes", headers={"authorization": "Bearer bad"})).status in (401, 429)
        assert (await client.get("/notes", headers={"authorization": "Bearer ann"})).status == 200


class Guarded:
    """An edge with rates that believes real tokens."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW * 1000)
        ids = SeededIds(self.clock)
        self.tokens = Tokens(Ring(), self.clock, audience="app", issuer="lowtide")
        self.edge = Edge(
            Handlers().routes(),
            authenticate=self.tokens.verify,
            clock=self.clock,
            ids=ids,
            hosts=Hosts(["localhost"]),
            access=AccessLog(self.clock, ids),
            rates=Rates(self.clock),
        )
        self.client = Client(self.edge)

    async def ask(self, token: str, path: str = "/notes") -> Answer:
        return await self.client.get(path, token=token)


@pytest.mark.anyio
class TestRefusedTokens:
    async def test_forged_tokens_are_counted_by_network(self) -> None:
        """Whoever tries them is slowed down; who has a good token, or had, in the same network is not."""
        server = Guarded()
        good, old = server.tokens.sign("ann"), server.tokens.sign("bob", ttl=1)
        server.clock.advance(120)
        forged = [await server.ask(f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}") for _ in range(FORGED)]
        assert {answer.status for answer in forged} == {401}
        refused = await server.ask("no.token.at-all")
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await server.ask(good)).status == 200
        assert (await server.ask(server.tokens.sign("carl"))).status == 200, "one that was never seen"
        late = await server.ask(old)
        assert (late.status, late.code) == (401, "token_expired")
        server.clock.advance(61)
        assert (await server.ask("no.token.at-all")).status == 401

    async def test_an_expired_token_is_counted_by_itself(self) -> None:
        """A client that runs wild with it; another that has expired hears so at once."""
        server = Guarded()
        old, other = server.tokens.sign("ann", ttl=1), server.tokens.sign("bob", ttl=1)
        server.clock.advance(120)
        statuses = [(await server.ask(old)).status for _ in range(STALE + 5)]
        assert statuses == [401] * STALE + [429] * 5
        assert (await server.ask(other)).code == "token_expired"
        assert (await server.ask("no.token.at-all")).status == 401, "it took nothing of its network"

    async def test_who_asks_for_what_is_not_theirs_is_counted(self) -> None:
        """Refusals of a good token are requests, too: 403 and what cannot be read."""
        server = Guarded()
        token = server.tokens.sign("ann")
        most = ALLOWANCES["read"].account
        statuses = [(await server.ask(token, "/internal")).status for _ in range(most // 2)]
        statuses += [(await server.ask(token, "/notes?limit=x")).status for _ in range(most // 2)]
        assert set(statuses) == {403, 400}
        assert (await server.ask(token, "/internal")).status == 429
