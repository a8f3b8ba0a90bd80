"""Who may write, and whose buckets: the words that an app's declaration is written with.

A write rule is a function ``(me, before, after) -> bool``. It is asked for every change that a
device makes: ``before`` is ``None`` for a creation, ``after`` is ``None`` for a deletion. It is
pure: it runs in the transaction, possibly twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Protocol

import msgspec

from lowtide.kernel.schema import Claim, Everyone, Me


class Caller(Protocol):
    """Who makes a change: what rules and hooks receive as ``me``."""

    @property
    def user(self) -> str:
        """The user's id."""
        ...

    @property
    def space(self) -> str: ...

    @property
    def claims(self) -> Mapping[str, Any]:
        """The token's claims and the verified facts of the device."""
        ...

    def holds(self, stream: str, key: str) -> bool:
        """Whether the user receives the rows that ``stream`` carries under ``key``."""
        ...


Rule = Callable[[Any, Any, Any], bool]

me = Me()
"""In ``keys`` and ``where``: the id of the user who asks."""

everyone = Everyone()
"""In ``keys``: one bucket that every user of the space holds."""


def claim(name: str) -> Claim:
    """In ``keys``: a claim of the token or a verified fact of the device; a text or a list of texts."""
    return Claim(name)


class Anyone(msgspec.Struct, frozen=True):
    """Every user of the space may write, also what is not theirs."""

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        return True


class Nobody(msgspec.Struct, frozen=True):
    """No device may write; the same as a model without a rule, but said aloud."""

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        return False


class Owner(msgspec.Struct, frozen=True):
    """The user whose id is in ``field``, before and after: nobody takes a record or gives it away."""

    field: str

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        return all(getattr(r, self.field) == me.user for r in (before, after) if r is not None)


class Member(msgspec.Struct, frozen=True):
    """Users who hold the key in ``field`` of ``stream``, before and after."""

    stream: str
    field: str

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        for record in (before, after):
            if record is None:
                continue
            key = getattr(record, self.field)
            if key is None or not me.holds(self.stream, key):
                return False
        return True


class Either(msgspec.Struct, frozen=True):
    """One of ``rules`` is enough."""

    rules: tuple[Rule, ...]

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        return any(rule(me, before, after) for rule in self.rules)


class Both(msgspec.Struct, frozen=True):
    """All of ``rules`` must agree."""

    rules: tuple[Rule, ...]

    def __call__(self, me: Caller, before: Any, after: Any) -> bool:
        return all(rule(me, before, after) for rule in self.rules)


def words(rule: Rule | None) -> str:
    """``rule`` as the declaration says it: ``either(owner("user_id"), member("team", "team_id"))``.

    A function of the app's own is its name and where it stands; a model without a rule has "none".
    """
    match rule:
        case None:
            return "none"
        case Anyone() | Nobody():
            return type(rule).__name__.lower()
        case Owner():
            return f'owner("{rule.field}")'
        case Member():
            return f'member("{rule.stream}", "{rule.field}")'
        case Either() | Both():
            return f"{type(rule).__name__.lower()}({', '.join(map(words, rule.rules))})"
    code = getattr(rule, "__code__", None)
    place = "" if code is None else f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return getattr(rule, "__qualname__", type(rule).__name__) + place


def streams_of(rule: Rule | None) -> set[str]:
    """The streams that ``rule`` names."""
    match rule:
        case Member():
            return {rule.stream}
        case Either() | Both():
            return {name for one in rule.rules for name in streams_of(one)}
    return set()


anyone = Anyone()
nobody = Nobody()


def owner(field: str) -> Owner:
    """The rule that only the user whose id is in ``field`` writes, and cannot hand the record over."""
    return Owner(field)


def member(stream: str, field: str) -> Member:
    """The rule that who receives the rows under the key in ``field`` of ``stream`` may write them."""
    return Member(stream, field)


def either(*rules: Rule) -> Either:
    """The rule that one of ``rules`` is enough."""
    return Either(rules)


def both(*rules: Rule) -> Both:
    """The rule that all of ``rules`` must agree."""
    return Both(rules)
