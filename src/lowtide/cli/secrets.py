"""``lowtide secrets``: the key that seals what is secret in the database."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lowtide.app import Lowtide
from lowtide.cli.opened import by_hand, with_backend
from lowtide.cli.project import open_project
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.storage.master import load_master, make_master


def new(arguments: argparse.Namespace) -> None:
    """Write a new secret key, readable by its owner only. Raises ``SetupError`` if the file is there."""
    path = Path(arguments.file)
    if os.path.lexists(path):
        raise SetupError(f"{path} is there already.", hint="Choose another name: a key is never overwritten.")
    make_master(path, SystemIds(SystemClock()))
    print(f"Wrote {path}. Keep a copy where no backup of the database is.")


def rotate(arguments: argparse.Namespace) -> None:
    """Make a new data key, and let a job seal everything with it; ``--master``: change the secret key, too.

    Raises ``SetupError``; ``AlreadyRunning`` while SQLite is being served.
    """
    settings, app = open_project()
    path = None if arguments.master is None else Path(arguments.master)
    master = None if path is None else load_master(path)
    if path is not None and master is None:
        raise SetupError(f"There is no {path}.", hint=f"Make it first: lowtide secrets new {path}")

    async def work(lowtide: Lowtide) -> None:
        made = by_hand("secrets.rotate", "data key")
        await lowtide.rotate_secrets(lambda tx: lowtide.audit.write(tx, made))
        if master is not None:
            changed = by_hand("secrets.rotate", "master")
            await lowtide.vault.rewrap(master, lambda tx: lowtide.audit.write(tx, changed))

    with_backend(settings, app, work)
    print("A new data key seals from now on; a server that runs jobs seals the rest with it in some minutes.")
    if path is not None:
        print(f"The secret key is now the one in {path}: set 'secret_key_file' before the next start.")
