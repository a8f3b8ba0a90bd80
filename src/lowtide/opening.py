"""What the settings name, opened: the database, the bus, the vault, the tokens, the senders of messages.

Commands that need one of them need no whole backend.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from lowtide.auth import Keys, Tokens
from lowtide.auth.methods import Carrier, Channel, HttpSms, Outbox, Smtp, mail_sender, mail_server
from lowtide.auth.outside import Credentials, read_credentials
from lowtide.auth.tokens import SessionChange
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import Ids
from lowtide.settings import Settings
from lowtide.storage.blobs import Blobs, DiskBlobs, S3Blobs, read_bucket
from lowtide.storage.blobs.s3 import SCHEME
from lowtide.storage.bus import Bus, MemoryBus
from lowtide.storage.db import Database
from lowtide.storage.master import load_master, make_master, read_master
from lowtide.storage.vault import Vault


def open_carriers(
    settings: Settings, database: Database, clock: Clock, egress: Egress, dev: bool
) -> dict[Channel, Carrier]:
    """What carries each kind of message. ``SetupError`` for settings that cannot be."""
    carriers: dict[Channel, Carrier] = {}
    if dev:
        carriers = {"mail": Outbox(database, clock), "sms": Outbox(database, clock)}
    if settings.sms_url:
        carriers["sms"] = HttpSms(egress, settings.sms_url, settings.sms_body, settings.sms_authorization)
    if settings.smtp_url:
        carriers["mail"] = Smtp(mail_server(settings.smtp_url), mail_sender(settings.mail_from), clock)
    return carriers


def open_database(settings: Settings, clock: Clock, ids: Ids) -> Database:
    """The database that the settings name, not started."""
    if settings.postgres:
        from lowtide.storage.db.postgres import PostgresDatabase

        return PostgresDatabase(settings.database, clock=clock, ids=ids)
    from lowtide.storage.db.sqlite import SqliteDatabase

    return SqliteDatabase(Path(settings.database), clock=clock)


def open_egress(settings: Settings) -> Egress:
    """What asks other servers. ``SetupError`` for certificates that cannot be read, at the start."""
    if settings.egress_ca_file:
        try:
            ssl.create_default_context(cafile=settings.egress_ca_file)
        except OSError as error:
            raise SetupError(
                f"The certificates {settings.egress_ca_file} cannot be read: {error.strerror or error}.",
                hint="Setting 'egress_ca_file' names a file with certificates in PEM.",
            ) from error
    return Egress(allowed=settings.egress_allowed, ca_file=settings.egress_ca_file)


def open_blobs(settings: Settings, address: str, ids: Ids) -> Blobs:
    """The folder or the bucket at ``address``; nothing is made or asked yet. ``SetupError``."""
    if not address.startswith(SCHEME):
        return DiskBlobs(Path(address), ids)
    return S3Blobs(
        read_bucket(
            address,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            key_id=settings.s3_key_id,
            secret=settings.s3_secret,
            ca_file=settings.egress_ca_file,
        )
    )


def open_vault(settings: Settings, database: Database, clock: Clock, ids: Ids, *, make: bool = True) -> Vault:
    """What seals and opens the secrets in ``database``, not loaded.

    ``make``: on SQLite, write a new secret key beside a new database; for one that is there it would open
    nothing. Raises ``SetupError``.
    """
    if settings.secret_key:
        return Vault(database, clock, ids, read_master(settings.secret_key, "LOWTIDE_SECRET_KEY"))
    if not settings.secret_key_file and settings.postgres:
        raise SetupError(
            "With PostgreSQL, every node needs the same secret key.",
            hint="Make one with 'lowtide secrets new FILE', and give it to each node: setting "
            "'secret_key_file', or LOWTIDE_SECRET_KEY.",
        )
    path = Path(settings.secret_key_file or f"{settings.database}.key")
    master = load_master(path)
    if master is None and make and not settings.secret_key_file and not Path(settings.database).exists():
        master = make_master(path, ids)
    if master is None:
        raise SetupError(
            f"There is no secret key at {path}.",
            hint=f"Put back the one that belongs to this database, or, for a new database, make one: "
            f"lowtide secrets new {path}",
        )
    return Vault(database, clock, ids, master)


def audit_origin(name: str) -> str:
    """What the checkpoints of the app called ``name`` call its audit log."""
    return f"lowtide/{name}"


def open_tokens(
    settings: Settings,
    keys: Keys,
    clock: Clock,
    name: str,
    changes: Mapping[str, SessionChange] | None = None,
) -> Tokens:
    """What signs and verifies the tokens of the app called ``name``; ``changes``: of sessions, live."""
    issuer = settings.public_url or f"lowtide/{name}"
    return Tokens(keys, clock, audience=name, issuer=issuer, changes=changes)


def apple_credentials(settings: Settings) -> Credentials | None:
    """What proves to Apple which team asks; None where no key is set up. ``SetupError`` for a wrong one."""
    if not settings.apple_key_file:
        return None
    return read_credentials(settings.apple_team_id, settings.apple_key_id, Path(settings.apple_key_file))


def open_bus(settings: Settings, clock: Clock, ids: Ids) -> Bus:
    """The bus that fits the database: nodes that share one hear each other through it."""
    if settings.postgres:
        from lowtide.storage.bus.postgres import PostgresBus

        return PostgresBus(settings.database, clock, ids)
    return MemoryBus()
