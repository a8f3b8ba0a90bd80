"""Tokens that are bound to a key, at the edge: who cannot prove the key is nobody."""

from __future__ import annotations

import pytest

from lowtide.api.edge import Edge
from lowtide.api.health import health_routes
from lowtide.api.limits import Load
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.auth.dpop import Proofs
from lowtide.auth.tokens import Tokens
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds
from tests.api.client import Answer, Client
from tests.api.edges import Handlers
from tests.auth.device import Device
from tests.auth.ring import NOW, Ring

pytestmark = pytest.mark.anyio
URL = "http://localhost/notes"


class Server:
    """An edge that believes real tokens and real proofs."""

    def __init__(self, *, proving: bool = True) -> None:
        clock = ManualClock(NOW * 1000)
        ids = SeededIds(clock)
        self.tokens = Tokens(Ring(), clock, audience="app", issuer="lowtide")
        self.proofs = Proofs(clock, lambda: (b"s" * 32,))
        self.handlers = Handlers()
        load = Load()
        self.client = Client(
            Edge(
                [*self.handlers.routes(), *health_routes({}, load)],
                authenticate=self.tokens.verify,
                clock=clock,
                ids=ids,
                hosts=Hosts(["localhost"]),
                access=AccessLog(clock, ids),
                load=load,
                prove=self.proofs.check if proving else None,
            )
        )

    async def ask(self, authorization: str, *proofs: str) -> Answer:
        headers = [("authorization", authorization), *(("dpop", proof) for proof in proofs)]
        return await self.client.get("/notes", headers=headers)


@pytest.fixture
def server() -> Server:
    return Server()


async def test_a_bound_token_with_its_proof_is_let_in(server: Server) -> None:
    """The key that the token names signs method, address and the token itself."""
    device = Device()
    token = server.tokens.sign("ann", jkt=device.jkt)
    answer = await server.ask(f"DPoP {token}", device.proof(method="GET", url=URL, token=token))
    assert answer.status == 200
    (request,) = server.handlers.requests
    assert (request.principal.user, request.principal.jkt) == ("ann", device.jkt)
    assert "cnf" not in request.principal.claims


async def test_a_bound_token_alone_is_worth_nothing(server: Server) -> None:
    """Nor with another's proof, one for another token or address, or a used one."""
    device, thief = Device(), Device()
    token = server.tokens.sign("ann", jkt=device.jkt)
    other = server.tokens.sign("ann", jkt=device.jkt, ttl=60)
    used = device.proof(method="GET", url=URL, token=token)
    assert (await server.ask(f"DPoP {token}", used)).status == 200
    tries: list[tuple[str, tuple[str, ...]]] = [
        (f"Bearer {token}", ()),
        (f"Bearer {token}", (device.proof(method="GET", url=URL, token=token),)),
        (f"Token {token}", ()),
        (f"DPoP {token}", ()),
        (f"DPoP {token}", (used,)),
        (f"DPoP {token}", (thief.proof(method="GET", url=URL, token=token),)),
        (f"DPoP {token}", (device.proof(method="GET", url=URL),)),
        (f"DPoP {token}", (device.proof(method="GET", url=URL, token=other),)),
        (f"DPoP {token}", (device.proof(method="POST", url=URL, token=token),)),
        (f"DPoP {token}", (device.proof(method="GET", url=URL + "/1", token=token),)),
    ]
    for authorization, proofs in tries:
        answer = await server.ask(authorization, *proofs)
        assert (answer.status, answer.code) == (401, "invalid_dpop_proof"), answer.body
        assert answer.headers["www-authenticate"].startswith('DPoP error="invalid_dpop_proof"')
        assert "dpop-nonce" not in answer.headers
    assert len(server.handlers.requests) == 1


async def test_two_proofs_are_refused(server: Server) -> None:
    """One request, one proof (RFC 9449 section 4.3)."""
    device = Device()
    token = server.tokens.sign("ann", jkt=device.jkt)
    proofs = [device.proof(method="GET", url=URL, token=token) for _ in range(2)]
    assert (await server.ask(f"DPoP {token}", *proofs)).status == 400
    assert server.handlers.requests == []


async def test_a_wrong_clock_is_told_a_nonce(server: Server) -> None:
    """The refusal has the nonce where RFC 9449 section 9 wants it, and the next try gets in."""
    device = Device()
    token = server.tokens.sign("ann", jkt=device.jkt)
    answer = await server.ask(f"DPoP {token}", device.proof(method="GET", url=URL, token=token, iat=5))
    assert (answer.status, answer.code) == (401, "use_dpop_nonce")
    assert 'error="use_dpop_nonce"' in answer.headers["www-authenticate"]
    nonce = answer.headers["dpop-nonce"]
    proof = device.proof(method="GET", url=URL, token=token, iat=5, nonce=nonce)
    assert (await server.ask(f"DPoP {token}", proof)).status == 200


async def test_an_unbound_token_is_a_bearer_token(server: Server) -> None:
    """It cannot be sent as DPoP: the two are never the same (RFC 9449 section 7.1)."""
    device = Device()
    token = server.tokens.sign("ann")
    assert (await server.ask(f"Bearer {token}")).status == 200
    answer = await server.ask(f"DPoP {token}", device.proof(method="GET", url=URL, token=token))
    assert (answer.status, answer.code) == (401, "unauthorized")


async def test_a_server_that_checks_no_proofs_believes_no_bound_token() -> None:
    """Without a checker, a bound token is refused rather than taken for a bearer token."""
    server, device = Server(proving=False), Device()
    token = server.tokens.sign("ann", jkt=device.jkt)
    for authorization in (f"Bearer {token}", f"DPoP {token}"):
        answer = await server.ask(authorization, device.proof(method="GET", url=URL, token=token))
        assert answer.status == 401
    assert server.handlers.requests == []
