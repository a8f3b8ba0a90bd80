"""``lowtide outbox``: what ``lowtide dev`` would have sent."""

from __future__ import annotations

import argparse

from lowtide.auth.methods.outbox import Sents, read_sent
from lowtide.cli.db import moment
from lowtide.cli.opened import with_reader
from lowtide.cli.project import open_project
from lowtide.storage.db import Database


def run(arguments: argparse.Namespace) -> None:
    """Print the messages, newest first: whom they went to, and their text."""
    settings, _ = open_project()

    async def look(database: Database) -> Sents:
        return await database.read(read_sent)

    messages = with_reader(settings, look).messages
    for sent in messages:
        print(f"{moment(sent.sent_at)} UTC  {sent.channel} to {sent.to}")
        if sent.subject:
            print(f"    {sent.subject}\n")
        print("    " + sent.text.strip().replace("\n", "\n    ") + "\n")
    if not messages:
        print("Nothing was sent.")
