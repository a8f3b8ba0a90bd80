"""What can be wrong with a function that an app gives: hooks, rules, resolvers."""

from __future__ import annotations

import inspect
from typing import Any

from lowtide.declare import place as places
from lowtide.declare.findings import Findings
from lowtide.declare.place import Place


def check_call(
    found: Findings,
    at: Place,
    what: str,
    call: Any,
    arguments: tuple[str, ...],
    *,
    code: str,
    awaited: bool = False,
) -> bool:
    """Report a ``what`` that cannot be called with ``arguments``, or is async where it must not be.

    Codes are ``code`` with ``-type``, ``-async`` or ``-signature`` behind it.
    """
    given = ", ".join(arguments)
    if not callable(call) or isinstance(call, type):
        found.error(at, f"{code}-type", f"the {what} is not a function", f"Write a function ({given}).")
        return False
    place = places.defined(call) or at
    if is_async(call) != awaited:
        if awaited:
            message, hint = f"the {what} is not async", "Write 'async def': it runs after the commit."
        else:
            message = f"the {what} is async or a generator"
            hint = "Write a plain 'def': it runs inside the transaction and waits for nothing."
        found.error(place, f"{code}-async", message, hint)
        return False
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError as error:
        found.error(
            place,
            f"{code}-signature",
            f"the {what} cannot be called with ({given}): {error}",
            f"Write ({given}).",
        )
        return False
    except ValueError:  # a function of C that does not tell its parameters
        return True
    return True


def is_async(call: Any) -> bool:
    """Whether calling gives something to await or to iterate, which is true to every ``if``."""
    return any(
        inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) or inspect.isgeneratorfunction(f)
        for f in (call, type(call).__call__)
    )
