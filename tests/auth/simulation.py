"""Phones that refresh over a bad network for months, and thieves; a checker says who was wronged.

A phone keeps its token and, *before* it sends, a random rotation id. Requests and answers get lost, the
app is killed between any two steps, late copies of a request arrive, and the next try comes seconds or days
later. A thief copies the token once, and uses it at a moment of his own.
"""

from __future__ import annotations

import contextlib
import random

import msgspec

from lowtide.kernel.errors import SessionRevoked
from tests.auth.world import World, code

DAY = 24 * 3600.0


class Report(msgspec.Struct):
    """What the checker found. Lists of sentences; empty is good."""

    refreshes: int = 0
    repeats: int = 0
    thefts: int = 0
    wronged: list[str] = []
    """Signed out although nobody stole anything."""
    unnoticed: list[str] = []
    """A thief went on after he and the owner had both used the token."""


class Phone:
    """What survives a restart of the app."""

    def __init__(self, token: str):
        self.token = token
        self.pending: str | None = None
        self.signed_out = False


class Network:
    """Loses what it is told to lose."""

    def __init__(self, world: World, dice: random.Random, loss: float, ids: bool, report: Report):
        self._world = world
        self._dice = dice
        self._loss = loss
        self._ids = ids
        self._report = report
        self._late: list[tuple[str, str | None]] = []

    async def refresh(self, phone: Phone) -> bool:
        """One try: did the phone get its new token?"""
        if self._ids and phone.pending is None:
            phone.pending = f"{self._dice.getrandbits(128):032x}"
        if self._dice.random() < self._loss / 2:
            return False
        if self._dice.random() < self._loss:
            self._late.append((phone.token, phone.pending))
        try:
            token = await self._send(phone.token, phone.pending)
        except SessionRevoked:
            phone.signed_out = True
            return True
        if self._dice.random() < self._loss / 2:
            return False
        # The new token and the end of the rotation are one write: a restart sees both or neither.
        phone.token, phone.pending = token, None
        return True

    async def late_copies(self) -> None:
        """Deliver requests that were held up; nobody hears the answers."""
        late, self._late = self._late, []
        for token, rotation in late:
            with contextlib.suppress(SessionRevoked):  # its phone is told at its own next request
                await self._send(token, rotation)

    async def _send(self, token: str, rotation: str | None) -> str:
        self._report.refreshes += 1
        signed = await self._world.sessions.refresh(token, rotation_id=rotation)
        if signed.refresh_token.split(".")[1] != str(int(token.split(".")[1]) + 1):
            raise AssertionError("a token has exactly one child")
        return signed.refresh_token


async def live(
    world: World, seed: int, report: Report, *, loss: float, rounds: int, thief: bool, ids: bool = True
) -> None:
    """One phone's months: ``rounds`` refreshes, of which a share of ``loss`` gets lost."""
    dice = random.Random(f"{seed} {loss} {thief}")
    signed = await world.enter(code(f"phone-{seed}-{loss}-{thief}@example.com"))
    phone = Phone(signed.refresh_token)
    network = Network(world, dice, loss, ids, report)
    copied_at = dice.randrange(rounds - 5) if thief else -1
    used_at = copied_at + dice.choice((0, 0, 1, 2)) if thief else -1
    loot = ""
    succeeded = False
    for step in range(rounds):
        if step == copied_at:
            loot = phone.token
        if thief and step == used_at:
            report.thefts += 1
            succeeded = await _steal(world, loot, dice)
        while not await network.refresh(phone):
            report.repeats += 1
            await network.late_copies()
            short = dice.random() < 0.5
            world.clock.advance(dice.uniform(0.2, 5) if short else min(dice.expovariate(1 / 5200), 80 * DAY))
        if not phone.signed_out:
            await network.late_copies()
        if phone.signed_out:
            if not thief or step < used_at:
                report.wronged.append(f"seed {seed}, loss {loss}: signed out at refresh {step}")
            return
        if thief and step >= used_at:
            report.unnoticed.append(
                f"seed {seed}, loss {loss}: copied at {copied_at}, used at {used_at} "
                f"({'with' if succeeded else 'without'} success), and the owner goes on at {step}"
            )
            return
        world.clock.advance(dice.choice((600, 600, 3600, 8 * 3600, DAY, 20 * DAY)))


async def _steal(world: World, loot: str, dice: random.Random) -> bool:
    rotation = None if dice.random() < 0.5 else f"{dice.getrandbits(128):032x}"
    try:
        await world.sessions.refresh(loot, rotation_id=rotation)
    except SessionRevoked:
        return False
    return True
