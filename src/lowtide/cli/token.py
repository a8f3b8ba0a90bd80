"""``lowtide token``: a signed token, to try things with or for a script."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from lowtide.auth.users import check_roles
from lowtide.cli.keys import open_keys
from lowtide.cli.opened import by_hand, with_reader
from lowtide.cli.project import open_project
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import Malformed, SetupError
from lowtide.opening import open_tokens
from lowtide.storage.db import Database

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def run(arguments: argparse.Namespace) -> None:
    """Print the token and nothing else, so that a shell can take it."""
    settings, app = open_project()
    ttl, claims = seconds(arguments.ttl), dict(map(claim, arguments.claim))

    async def sign(database: Database) -> str:
        clock = SystemClock()
        tokens = open_tokens(settings, await open_keys(settings, database), clock, app.name)
        try:
            check_roles(arguments.role)
            return tokens.sign(
                arguments.user,
                space=arguments.space,
                ttl=ttl,
                claims=claims,
                server=arguments.server,
                roles=arguments.role,
            )
        except (Malformed, ValueError) as error:
            raise SetupError(f"There can be no such token: {error}.", hint="Change the arguments.") from error

    kind = "server" if arguments.server else "user"
    after = {"roles": arguments.role} if arguments.role else None
    entry = by_hand("token.issue", f"{kind}:{arguments.user}", arguments.space, after)
    print(with_reader(settings, sign, entry))


def seconds(text: str) -> int:
    """``90``, ``90s``, ``15m`` or ``2h`` in seconds."""
    found = re.fullmatch(r"(\d{1,9})([smh]?)", text)
    if found is None:
        raise SetupError(f"'{text}' is no length of time.", hint="Write 90, 90s, 15m or 2h.")
    return int(found[1]) * UNITS[found[2]]


def claim(text: str) -> tuple[str, Any]:
    """``name=value``: the value is JSON, or else it is the text itself."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SetupError(f"'{text}' is no claim.", hint="Write --claim name=value.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
