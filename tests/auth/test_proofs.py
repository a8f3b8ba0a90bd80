"""Proofs of possession that count once, whichever node they are sent to."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.auth.dpop import LIFE
from lowtide.storage.db import Query
from tests.api.client import Answer, Client
from tests.auth.device import Device

pytestmark = pytest.mark.anyio

USED = "SELECT digest, expires_at FROM used_challenge ORDER BY 1"


def proof(lowtide: Lowtide, device: Device, path: str, **more: Any) -> str:
    """A proof of now."""
    return device.proof(url=f"http://localhost{path}", iat=lowtide.clock.now() // 1000, **more)


async def used(lowtide: Lowtide) -> list[Any]:
    """What all nodes know."""
    return await lowtide.database.read(lambda tx: tx.fetch(Query("used", USED, USED)))


def another_node(lowtide: Lowtide) -> None:
    """What a node remembers by itself is not what another remembers, nor what it does after a restart."""
    lowtide.proofs._seen.clear()


async def begin(lowtide: Lowtide, client: Client, device: Device) -> dict[str, Any]:
    """A session that is bound to the device's key."""
    headers = {"dpop": proof(lowtide, device, "/v1/auth/anonymous")}
    answer = await client.post("/v1/auth/anonymous", json={}, headers=headers)
    assert answer.status == 201, answer.body
    return dict(answer.json())


async def test_a_recorded_refresh_is_worth_nothing_elsewhere(lowtide: Lowtide, client: Client) -> None:
    """Whoever saw the whole request, rotation id and all, gets no tokens for it from another node."""
    device = Device()
    session = await begin(lowtide, client, device)
    body = {"refresh_token": session["refresh_token"], "rotation_id": "r" * 32}

    async def refresh(sent: str) -> Answer:
        return await client.post("/v1/auth/token/refresh", json=body, headers={"dpop": sent})

    recorded = proof(lowtide, device, "/v1/auth/token/refresh")
    assert (await refresh(recorded)).status == 200
    for _ in range(2):
        again = await refresh(recorded)
        assert (again.status, again.code) == (401, "invalid_dpop_proof")
        assert "access_token" not in again.json()
        another_node(lowtide)
    fresh = await refresh(proof(lowtide, device, "/v1/auth/token/refresh"))
    assert fresh.status == 200, "the device itself repeats with a new proof"


async def test_a_recorded_sign_in_is_worth_nothing_elsewhere(lowtide: Lowtide, client: Client) -> None:
    """The same for every sign-in that proves a key."""
    device = Device()
    recorded = {"dpop": proof(lowtide, device, "/v1/auth/anonymous")}
    assert (await client.post("/v1/auth/anonymous", json={}, headers=recorded)).status == 201
    another_node(lowtide)
    again = await client.post("/v1/auth/anonymous", json={}, headers=recorded)
    assert (again.status, again.code) == (401, "invalid_dpop_proof")


async def test_ordinary_requests_write_nothing(lowtide: Lowtide, client: Client) -> None:
    """Their proofs are known in memory alone; what is kept of others goes when no proof of then counts."""
    device = Device()
    await begin(lowtide, client, device)
    (kept,) = await used(lowtide)
    now = lowtide.clock.now()
    assert now < kept[1] <= now + LIFE * 1000
    token = lowtide.tokens.sign("ann", jkt=device.jkt)
    sent = proof(lowtide, device, "/v1/records/note", method="GET", token=token)
    headers = {"authorization": f"DPoP {token}", "dpop": sent}
    assert (await client.get("/v1/records/note", headers=headers)).status == 200
    assert (await client.get("/v1/records/note", headers=headers)).code == "invalid_dpop_proof"
    assert await used(lowtide) == [kept]


async def test_a_proof_that_is_wrong_writes_nothing(lowtide: Lowtide, client: Client) -> None:
    """Strangers fill no table with what they did not sign rightly."""
    device = Device()
    wrong = proof(lowtide, device, "/v1/auth/token/refresh")
    answer = await client.post("/v1/auth/anonymous", json={}, headers={"dpop": wrong})
    assert (answer.status, answer.code) == (401, "invalid_dpop_proof")
    assert await used(lowtide) == []
