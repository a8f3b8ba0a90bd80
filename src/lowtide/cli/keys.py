"""``lowtide keys``: the keys that sign access tokens."""

from __future__ import annotations

import argparse
import getpass

from lowtide.app import Lowtide
from lowtide.audit import Audit
from lowtide.auth import Keys
from lowtide.auth.keys import SigningKey
from lowtide.cli.db import moment
from lowtide.cli.opened import with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.ids import SystemIds
from lowtide.opening import open_vault
from lowtide.settings import Settings
from lowtide.storage.db import Database


async def open_keys(settings: Settings, database: Database) -> Keys:
    """The keys that are in ``database``, loaded. Raises ``SetupError`` without their secret key."""
    clock = SystemClock()
    ids = SystemIds(clock)
    vault = open_vault(settings, database, clock, ids, make=False)
    await vault.load()
    keys = Keys(database, clock, vault, Audit(clock, ids))
    await keys.load()
    return keys


def show(arguments: argparse.Namespace) -> None:
    """Print a line for each key: its name, what it does, and since when it is there."""
    settings, _ = open_project()

    async def look(database: Database) -> list[SigningKey]:
        return (await open_keys(settings, database)).all()

    found = with_reader(settings, look)
    print(f"{'key':43}  {'state':8} {'made (UTC)':19}  goes (UTC)")
    for key in found:
        goes = moment(key.retires_at) if key.retires_at else ""
        print(f"{key.kid:43}  {key.state:8} {moment(key.created_at)}  {goes}".rstrip())


def rotate(arguments: argparse.Namespace) -> None:
    """Let the next key sign. Raises ``Conflict`` within ten minutes of the last time."""
    settings, app = open_project()

    async def work(lowtide: Lowtide) -> str:
        return await lowtide.keys.rotate(_me(), via="cli")

    print(f"{with_backend(settings, app, work)} signs from now on. What the key before it signed stays good.")


def revoke(arguments: argparse.Namespace) -> None:
    """Make every token that a key signed invalid. Raises ``NotFound``."""
    settings, app = open_project()

    async def work(lowtide: Lowtide) -> None:
        await lowtide.keys.revoke(arguments.key, _me(), via="cli")

    with_backend(settings, app, work)
    print(f"Every token that {arguments.key} signed is invalid. Apps fetch new ones by themselves.")


def _me() -> str:
    return f"cli:{getpass.getuser()}"
