"""The secret key: 32 bytes that the operator keeps, outside the database and outside its backups.

It is one line of text, 43 characters of base64url. Whoever has it and the database can read every
secret in it; whoever has one of the two cannot.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from pathlib import Path

from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import Ids

BYTES = 32
log = logging.getLogger("lowtide.storage")


def read_master(text: str, place: str) -> bytes:
    """The key in ``text``, which came from ``place``. Raises ``SetupError``."""
    bare = text.strip()
    try:
        key = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != BYTES:
        raise SetupError(
            f"{place} does not hold a secret key.",
            hint="A key is one line of 43 characters. Put back the one that belongs to this database, or, "
            "for a new database, make one: lowtide secrets new FILE",
        )
    return key


def load_master(path: Path) -> bytes | None:
    """The key in the file ``path``; None when there is no such file. Raises ``SetupError``."""
    try:
        with path.open("rb") as file:
            text = file.read(4096).decode("ascii", "replace")
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(
            f"The secret key {path} cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error
    if mode & 0o077:
        log.warning("others on this machine may read the secret key %s: chmod 600 it", path)
    return read_master(text, str(path))


def make_master(path: Path, ids: Ids) -> bytes:
    """Write a new key to ``path``, readable by its owner only, durably; returns it.

    Of two processes that do so at once one wins, and both return its key. Raises ``SetupError``.
    """
    key = bytes.fromhex(ids.token() + ids.token())
    draft = path.with_name(f"{path.name}.{ids.token()[:8]}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb") as file:
                file.write(base64.urlsafe_b64encode(key).rstrip(b"=") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                other = load_master(path)
                if other is not None:
                    return other
                raise
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SetupError(
            f"The secret key {path} cannot be written: {error.strerror}.",
            hint="Choose another place with the setting 'secret_key_file'.",
        ) from error
    return key
