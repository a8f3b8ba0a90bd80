"""Devices that somebody has signed in on before: what strangers use up, these need not share.

A device is known by its installation id, which the app made at random and only the app and this server hold.
Where a first factor has proved already whose account it is, the network of a former sign-in is enough. Either
is believed for nothing but a count of its own: whoever copies it may ask a few times more, and that is all.
"""

from __future__ import annotations

import msgspec

from lowtide.auth.methods.networks import network
from lowtide.auth.model import DeviceFacts
from lowtide.storage.db import Tx, load_queries

QUERIES = load_queries("lowtide.auth", "sessions.sql")

LOOKED_AT = 200
"""Sessions of a user that are looked at, the latest."""
SECRET = 16
"""Characters of an installation id from which on nobody guesses it."""

_decode = msgspec.json.Decoder(DeviceFacts).decode


class KnownDevices:
    """Knows a device again. Stateless."""

    async def place(self, tx: Tx, user: str, *, installation: str = "", ip: str = "") -> str:
        """What is counted by for this device or network, if ``user`` has signed in there; else "".

        Only through the app itself, and not in a session that was ended from elsewhere: that device may have
        been a thief's. One query, and none where nothing is given.
        """
        installation = installation if len(installation) >= SECRET else ""
        if not (installation or ip):
            return ""
        where = network(ip) if ip else ""
        found = ""
        for device, seen_at in await tx.fetch(QUERIES["known_devices"], user, LOOKED_AT):
            if installation and _decode(device).installation == installation:
                return f"device {installation}"
            if where and seen_at and network(seen_at) == where:
                found = f"network {where}"
        return found
