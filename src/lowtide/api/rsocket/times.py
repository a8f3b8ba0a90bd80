"""The patience with an RSocket connection; apart, because who never meets one need not load the rest."""

from __future__ import annotations

import msgspec


class SessionTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long an RSocket connection may stay silent; seconds."""

    setup: float = 10.0
    """From the connection's start to its SETUP."""
    request: float = 15.0
    """From there, and from a stream's end, to the next request; more for one that comes at 1 KiB/s."""
    lifetime: float = 300.0
    """Without a sign of life of the client, whatever it said it would take."""
    starved: float = 300.0
    """For which a stream may ask for nothing while there is something to send."""
    goodbye: float = 2.0
    """From our closing to the client's."""
    look: float = 5.0
    """Between two looks at all of these."""
