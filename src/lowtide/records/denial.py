"""Why something was denied: told to developers, never to others.

A developer is a user with the role ``developer`` in the space. An explanation names rules, streams and the
user's own keys, and nothing of a record.
"""

from __future__ import annotations

from typing import Any

from lowtide.declare.rules import streams_of, words
from lowtide.kernel.errors import LowtideError, NotFound
from lowtide.kernel.schema import Model, Parameter, Principal, Stream
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
                    {"stream": stream.name, "by": field, **self._keys(principal, stream, holdings)}
                    for stream, field in self._streams.carrying(model)
                ],
            }
        return error

    def explain(
        self, principal: Principal, error: LowtideError, model: Model, refused: Result, holdings: Any
    ) -> None:
        """Say to a developer what refused a write: the rule's words, and the keys that it asked for."""
        why: dict[str, Any] = {"rule": refused.code, "reason": refused.message}
        if refused.code in ("forbidden", "closed"):
            found = map(self._streams.named, sorted(streams_of(model.write)))
            why["rule"] = words(model.write)
            why["user"] = principal.user
            why["streams"] = [
                {"stream": stream.name, **self._keys(principal, stream, holdings)}
                for stream in found
                if stream is not None
            ]
        error.details["why"] = why

    def _keys(self, principal: Principal, stream: Stream, holdings: Any) -> dict[str, Any]:
        held = sorted(self._streams.keys_held(principal, stream, holdings))[:MAX_KEYS]
        return {"keys": held, "any_key": _any_key(stream.keys)}


def _any_key(keys: Any) -> bool:
    return isinstance(keys, Parameter) and keys.within is None
