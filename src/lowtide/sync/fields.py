"""How one field merges: three values in, one out.

``mine`` is what the device wrote, ``base`` what it replaced on the device, ``theirs`` what the
server holds now. Pure: the same values give the same answer on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from lowtide.kernel.schema import Field, Resolving, Wire
from lowtide.kernel.values import coerce, decode
from lowtide.sync.collaborative import merge_documents
from lowtide.sync.threeway import merge_list, merge_set, merge_text

SLOW_RESOLVE = 0.05
"""Seconds that the app's resolver may take before the log speaks of it. Its answer counts all the same."""

_I64 = 2**63
_parse = msgspec.json.Decoder().decode


class Merged(msgspec.Struct, frozen=True):
    """What a field is after the merge."""

    value: Wire
    lost: Wire = None
    """The value that lost, if ``conflict``."""
    conflict: bool = False
    """A value of either side is gone: it belongs into the journal."""
    mine_won: bool = True
    fault: str | None = None
    """What to log of the app's resolver: it raised, and the later write was taken; or it is slow."""


def merge_field(
    field: Field, base: Wire, mine: Wire, theirs: Wire, mine_is_later: bool, context: Resolving
) -> Merged:
    """The merge of one field by its declared rule. Raises ``ValueError`` where no value can result."""
    if mine == theirs and field.merge != "counter":
        return Merged(mine)
    rule = _RULES.get(field.merge)
    if rule is not None:
        return rule(field, base, mine, theirs, mine_is_later, context)
    if base == theirs:
        return Merged(mine)
    return _later(mine, theirs, mine_is_later)


def merge_unseen(field: Field, mine: Wire, theirs: Wire, mine_is_later: bool, context: Resolving) -> Merged:
    """The merge of a field whose replaced value the device did not send, or sent unreadably.

    Nothing is taken for granted: what both sides hold stays where the rule can tell, and otherwise the
    earlier of two different values goes to the journal. Raises as ``merge_field`` does.
    """
    if mine == theirs:
        return Merged(mine)
    if field.merge in ("set", "list"):
        return merge_field(field, "[]", mine, theirs, mine_is_later, context)
    if field.merge in ("max", "min", "first", "collaborative"):
        return merge_field(field, None, mine, theirs, mine_is_later, context)
    return _later(mine, theirs, mine_is_later)


def _later(mine: Wire, theirs: Wire, mine_is_later: bool) -> Merged:
    if mine_is_later:
        return Merged(mine, theirs, True)
    return Merged(theirs, mine, True, False)


def _counter(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    total = _number(theirs) + _number(mine) - _number(base)
    if field.kind == "integer" and not -_I64 <= total < _I64:
        raise ValueError("the counter would leave 64 bits")
    return Merged(coerce(field, total))


def _number(value: Wire) -> int | float:
    return value if isinstance(value, int | float) else 0


def _set(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    return Merged(coerce(field, merge_set(_items(base), _items(mine), _items(theirs))))


def _list(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    merged, lost = merge_list(_items(base), _items(mine), _items(theirs), later)
    value = coerce(field, merged)
    if lost:
        return Merged(value, msgspec.json.encode(lost).decode(), True, later)
    return Merged(value)


def _items(value: Wire) -> list[Any]:
    items = _parse(value) if isinstance(value, str) else []
    return items if isinstance(items, list) else []


def _text(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    if base == theirs:
        return Merged(mine)
    return Merged(coerce(field, merge_text(str(base or ""), str(mine or ""), str(theirs or ""))))


def _collaborative(
    field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving
) -> Merged:
    if mine is None:
        return Merged(mine) if base == theirs else _later(mine, theirs, later)
    return Merged(coerce(field, merge_documents(str(mine), None if theirs is None else str(theirs))))


def _max(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    return _extreme(mine, theirs, max)


def _min(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    return _extreme(mine, theirs, min)


def _extreme(mine: Wire, theirs: Wire, choose: Callable[..., Any]) -> Merged:
    if mine is None or theirs is None:
        return Merged(theirs if mine is None else mine)
    return Merged(choose(mine, theirs))


def _first(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    if theirs is None:
        return Merged(mine)
    # A device that saw the first value and wrote over it breaks a rule that it knew; one that did
    # not see it lost a race. Neither changes the value, and neither is forgotten.
    return Merged(theirs, mine, mine is not None, False)


def _custom(field: Field, base: Wire, mine: Wire, theirs: Wire, later: bool, context: Resolving) -> Merged:
    if base == theirs:
        return Merged(mine)
    assert field.resolve is not None  # noqa: S101 - the declaration's check guarantees it
    began = time.perf_counter()
    try:
        value = coerce(
            field,
            field.resolve(decode(field, base), decode(field, mine), decode(field, theirs), context),
        )
    except Exception as error:
        kept = _later(mine, theirs, later)
        return msgspec.structs.replace(kept, fault=f"resolve raised {type(error).__name__}: {error}")
    took = time.perf_counter() - began
    fault = f"resolve took {took:.3f} s; every writer waits for it" if took > SLOW_RESOLVE else None
    if value == mine:
        return Merged(value, theirs, True, fault=fault)
    if value == theirs:
        return Merged(value, mine, True, False, fault)
    return Merged(value, fault=fault)


_RULES: dict[str, Callable[[Field, Wire, Wire, Wire, bool, Resolving], Merged]] = {
    "counter": _counter,
    "set": _set,
    "list": _list,
    "text": _text,
    "collaborative": _collaborative,
    "max": _max,
    "min": _min,
    "first": _first,
    "custom": _custom,
}
