"""Why something was denied: told to developers, never to others.

A developer is a user with the role ``developer`` in the space. An explanation names rules, streams and the
user's own keys, and nothing of a record.
"""

from __future__ import annotations

from typing import Any

from lowtide.kernel.errors import LowtideError, NotFound
from lowtide.kernel.schema import Parameter, Principal
from lowtide.sync.model import Result
from lowtide.sync.streams import Streams

ROLE = "developer"

MAX_KEYS = 20
"""Keys that an explanation lists of each stream."""


def is_developer(principal: Principal) -> bool:
    """May this user be told why?"""
    return ROLE in principal.roles


class Denials:
    """Puts the reason into an error's ``why``."""

    def __init__(self, streams: Streams):
        self._streams = streams

    def unseen(self, principal: Principal, model: str, id: str, holdings: Any) -> NotFound:
        """The error for a record that is not there, or not for this user: the two look alike."""
        error = NotFound(f"There is no {model} {id[:128]!r}.")
        if is_developer(principal):
            error.details["why"] = {
                "rule": "streams",
                "reason": "no live record has this id, or none of these streams carries it to this user",
                "streams": [
                    {
                        "stream": stream.name,
                        "by": field,
                        "keys": sorted(self._streams.keys_held(principal, stream, holdings))[:MAX_KEYS],
                        "any_key": _any_key(stream.keys),
                    }
                    for stream, field in self._streams.carrying(model)
                ],
            }
        return error

    def explain(self, principal: Principal, error: LowtideError, refused: Result) -> None:
        """Say which rule refused a write."""
        if is_developer(principal):
            error.details["why"] = {"rule": refused.code, "reason": refused.message}


def _any_key(keys: Any) -> bool:
    return isinstance(keys, Parameter) and keys.within is None
