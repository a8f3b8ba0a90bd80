"""``lowtide passwords``: what nobody may choose."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lowtide.auth.methods.leaks import build
from lowtide.kernel.errors import SetupError


def make(arguments: argparse.Namespace) -> None:
    """Write a file for the setting ``leaked_passwords``. Raises ``SetupError`` for other files."""
    target = Path(arguments.file)
    try:
        if arguments.source == "-":
            count = build(sys.stdin.buffer, target, least=arguments.least)
        else:
            with Path(arguments.source).open("rb") as source:
                count = build(source, target, least=arguments.least)
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}.", hint="Name files that are there.") from error
    print(f'{target}: {count} passwords. Use it with: leaked_passwords = "{target}"')
