"""What ``lowtide doctor`` looks for: each check is a question to the facts of a deployment."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from lowtide.settings import Settings

Severity = Literal["critical", "warning", "notice"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "notice")
"""The worst first."""
HOUR, DAY = 3_600_000, 86_400_000
GIB = 1024**3
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
PLAYBOOK = "docs/security/playbook.md"


class Mode(msgspec.Struct, frozen=True):
    """Who may do what with a file."""

    path: str
    mode: int
    mine: bool = True
    """Does it belong to the account that looks?"""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as it was found. Times are milliseconds since 1970; None: not known, or not there."""

    settings: Settings
    now: int = 0
    secret_key: Mode | None = None
    secret_key_problem: str = ""
    """Why it does not open what is in the database."""
    files: tuple[Mode, ...] = ()
    """The database's files and their folder."""
    disk_free: int | None = None
    disk_size: int | None = None
    log_size: int = 0
    """Bytes of SQLite's write-ahead log."""
    backup_at: int | None = None
    backups_known: bool = False
    """Was a folder of backups named?"""
    checkpoint_at: int | None = None
    checkpoints_problem: str = ""
    """Why they cannot be read."""
    checkpoints_here: bool = False
    """Do they lie on this machine's own disk?"""
    reached: bool = True
    """Did the database answer?"""
    database_now: int | None = None
    superuser: bool = False
    encrypted: bool = True
    """Is the connection to PostgreSQL?"""
    key_made_at: int | None = None
    dead_jobs: int = 0
    unchained_since: int | None = None
    outbox: int = 0
    """Messages that a server in development kept instead of sending."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is open."""

    check: str
    severity: Severity
    message: str
    fix: str
    docs: str


class Check(msgspec.Struct, frozen=True):
    """One question: what is wrong, or None."""

    name: str
    severity: Severity
    look: Callable[[Facts], str | None]
    fix: str
    section: str

    def find(self, facts: Facts) -> Finding | None:
        """The finding, if the deployment trips this check."""
        message = self.look(facts)
        if message is None:
            return None
        return Finding(self.name, self.severity, message, self.fix, f"{PLAYBOOK}#{self.section}")


def look(facts: Facts) -> list[Finding]:
    """Every finding, the worst first."""
    found = [finding for check in CHECKS if (finding := check.find(facts)) is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _when(wrong: bool, message: str) -> str | None:
    return message if wrong else None


def _public_url(facts: Facts) -> str | None:
    url = facts.settings.public_url
    return _when(not url.startswith("https://"), f"'public_url' is '{url}': clients need an https address.")


def _host(facts: Facts) -> str | None:
    host = urlsplit(facts.settings.public_url).netloc
    names = facts.settings.allowed_hosts
    wrong = bool(host) and host not in names and (urlsplit(facts.settings.public_url).hostname not in names)
    return _when(wrong, f"'allowed_hosts' lacks {host}: requests for it are answered 421.")


def _origins(facts: Facts) -> str | None:
    loose = [
        origin
        for origin in facts.settings.cors_origins
        if origin == "*" or origin.startswith("http://") or origin.endswith(":*")
    ]
    return _when(bool(loose), f"'cors_origins' lets in {', '.join(loose)}.")


def _proxies(facts: Facts) -> str | None:
    wide = []
    for text in facts.settings.trusted_proxies:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            wide.append(text)
        else:
            if network.prefixlen == 0:
                wide.append(text)
    return _when(bool(wide), f"'trusted_proxies' believes {', '.join(wide)}: anyone can forge their address.")


def _bare(facts: Facts) -> str | None:
    settings = facts.settings
    wrong = settings.host not in LOCAL and not settings.trusted_proxies
    return _when(wrong, f"It listens on {settings.host} without a proxy, and speaks no TLS itself.")


def _mail(facts: Facts) -> str | None:
    wrong = not (facts.settings.smtp_url and facts.settings.mail_from)
    return _when(wrong, "'smtp_url' or 'mail_from' is empty: no code, link or warning reaches anybody.")


def _mail_password(facts: Facts) -> str | None:
    url = urlsplit(facts.settings.smtp_url)
    wrong = url.scheme == "smtp" and url.port == 25 and url.hostname not in LOCAL
    return _when(wrong, f"Mail goes to {url.hostname} at port 25.")


def _rates(facts: Facts) -> str | None:
    return _when(facts.settings.rate_limits == 0, "'rate_limits' is 0: nobody is slowed down.")


def _versions(facts: Facts) -> str | None:
    return _when(not facts.settings.min_app_versions, "'min_app_versions' is empty: no app is too old.")


def _passkeys(facts: Facts) -> str | None:
    wrong = facts.settings.passkey_rp_id == "localhost" and facts.settings.public_url.startswith("https://")
    return _when(wrong, "'passkey_rp_id' is localhost: passkeys work on no phone.")


def _egress(facts: Facts) -> str | None:
    names = facts.settings.egress_allowed
    return _when(bool(names), f"'egress_allowed' opens private addresses: {', '.join(names)}.")


def _outbox(facts: Facts) -> str | None:
    return _when(facts.outbox > 0, f"{facts.outbox} messages of 'lowtide dev' are in the database.")


def _key(facts: Facts) -> str | None:
    return facts.secret_key_problem or None


def _key_mode(facts: Facts) -> str | None:
    key = facts.secret_key
    if key is None:
        return None
    if not key.mine:
        return f"The secret key {key.path} belongs to another account."
    return _when(bool(key.mode & 0o077), f"Others may read the secret key {key.path} ({key.mode:o}).")


def _key_place(facts: Facts) -> str | None:
    settings = facts.settings
    wrong = not (settings.postgres or settings.secret_key or settings.secret_key_file)
    return _when(wrong, "The secret key lies beside the database: one copy of the folder holds both.")


def _file_modes(facts: Facts) -> str | None:
    wide = [f"{file.path} ({file.mode:o})" for file in facts.files if file.mode & 0o007]
    return _when(bool(wide), f"Everybody on the machine may read {', '.join(wide)}.")


def _disk(facts: Facts) -> str | None:
    if facts.disk_free is None or not facts.disk_size:
        return None
    wrong = facts.disk_free < GIB or facts.disk_free / facts.disk_size < 0.1
    return _when(wrong, f"{facts.disk_free / GIB:.1f} GiB of {facts.disk_size / GIB:.1f} GiB are free.")


def _log(facts: Facts) -> str | None:
    return _when(facts.log_size > GIB // 4, f"The write-ahead log has {facts.log_size // 1024**2} MiB.")


def _backup(facts: Facts) -> str | None:
    if not facts.backups_known:
        return None
    if facts.backup_at is None:
        return "There is no backup."
    hours = (facts.now - facts.backup_at) // HOUR
    return _when(hours >= 26, f"The newest backup is {hours} hours old.")


def _no_backups(facts: Facts) -> str | None:
    wrong = not facts.backups_known and not facts.settings.postgres
    return _when(wrong, "Nobody said where the backups are: their age is not known.")


def _reached(facts: Facts) -> str | None:
    return _when(not facts.reached, "The database does not answer, or was never started.")


def _clock(facts: Facts) -> str | None:
    if facts.database_now is None:
        return None
    skew = abs(facts.database_now - facts.now)
    return _when(skew > 2_000, f"The database's clock and this one's differ by {skew / 1000:.1f} s.")


def _tls(facts: Facts) -> str | None:
    url = urlsplit(facts.settings.database)
    if not facts.settings.postgres or (url.hostname or "") in ("", *LOCAL):
        return None
    mode = parse_qs(url.query).get("sslmode", ["prefer"])[0]
    wrong = mode not in ("require", "verify-ca", "verify-full") or not facts.encrypted
    return _when(wrong, f"The connection to {url.hostname} need not be encrypted (sslmode={mode}).")


def _superuser(facts: Facts) -> str | None:
    return _when(facts.superuser, "The role of the server is a superuser of PostgreSQL.")


def _key_age(facts: Facts) -> str | None:
    if facts.key_made_at is None:
        return None
    days = (facts.now - facts.key_made_at) // DAY
    return _when(days > 120, f"The keys that sign tokens did not change for {days} days.")


def _checkpoints(facts: Facts) -> str | None:
    return _when(not facts.settings.audit_checkpoints, "'audit_checkpoints' is empty: none are kept.")


def _checkpoint_age(facts: Facts) -> str | None:
    if not facts.settings.audit_checkpoints:
        return None
    if facts.checkpoints_problem:
        return f"The audit checkpoints cannot be read: {facts.checkpoints_problem}"
    if facts.checkpoint_at is None:
        return "There is no audit checkpoint yet."
    hours = (facts.now - facts.checkpoint_at) // HOUR
    return _when(hours >= 3, f"The newest audit checkpoint is {hours} hours old.")


def _checkpoints_place(facts: Facts) -> str | None:
    wrong = bool(facts.settings.audit_checkpoints) and facts.checkpoints_here
    return _when(wrong, "The audit checkpoints stay on this machine: who takes it over can replace them.")


def _s3(facts: Facts) -> str | None:
    url = urlsplit(facts.settings.s3_endpoint)
    wrong = url.scheme == "http" and url.hostname not in LOCAL
    return _when(wrong, f"What is kept at {url.hostname} travels in the clear.")


def _blobs(facts: Facts) -> str | None:
    wrong = facts.settings.postgres and not facts.settings.blobs.startswith("s3://")
    return _when(wrong, f"'blobs' is a folder, {facts.settings.blobs}: every node must see the same one.")


def _unchained(facts: Facts) -> str | None:
    since = facts.unchained_since
    wrong = since is not None and facts.now - since > HOUR // 6
    return _when(wrong, "Audit entries wait to be chained for more than ten minutes.")


def _dead(facts: Facts) -> str | None:
    return _when(facts.dead_jobs > 0, f"{facts.dead_jobs} jobs are dead.")


SETTINGS, SECRETS = "before-the-first-deployment", "secrets"
EDGE, WATCH = "network-edge", "monitoring-and-audit"
IDENTITIES, CLIENT = "identities", "mobile-client"

CHECKS = (
    Check("public_url", "critical", _public_url, "Set it to the https address that the apps use.", SETTINGS),
    Check("allowed_hosts", "critical", _host, "Add the name to 'allowed_hosts'.", EDGE),
    Check("rate_limits", "critical", _rates, "Remove it, or set a factor above 0.", EDGE),
    Check("trusted_proxies", "critical", _proxies, "Name the addresses of your proxies only.", EDGE),
    Check(
        "secret_key",
        "critical",
        _key,
        "Put back the one that belongs to this database, before anything is started again.",
        SECRETS,
    ),
    Check(
        "secret_key_mode", "critical", _key_mode, "chown it to the server's account, and chmod 600.", SECRETS
    ),
    Check("backup_age", "critical", _backup, "Run 'lowtide backup' daily, and try a restore.", SETTINGS),
    Check("database", "critical", _reached, "Start the app once, or mend the connection.", SETTINGS),
    Check(
        "postgres_tls", "critical", _tls, "Add ?sslmode=verify-full to the address of the database.", SECRETS
    ),
    Check(
        "postgres_role", "critical", _superuser, "Give it a role that owns its database, no more.", SECRETS
    ),
    Check(
        "audit_checkpoint_age",
        "critical",
        _checkpoint_age,
        "See that a node runs jobs, and may write where 'audit_checkpoints' says.",
        WATCH,
    ),
    Check("disk", "warning", _disk, "Make room: a full disk stops every write.", WATCH),
    Check(
        "listener", "warning", _bare, "Put a proxy with TLS in front, and name it in 'trusted_proxies'.", EDGE
    ),
    Check("cors_origins", "warning", _origins, "List exact https origins only.", EDGE),
    Check("mail", "warning", _mail, "Set 'smtp_url' and 'mail_from'.", IDENTITIES),
    Check("mail_port", "warning", _mail_password, "Use port 587, or smtps:// at 465.", IDENTITIES),
    Check("file_modes", "warning", _file_modes, "chmod o= the folder and the files in it.", SECRETS),
    Check(
        "outbox",
        "warning",
        _outbox,
        "Start production on a database that 'lowtide dev' never used.",
        SETTINGS,
    ),
    Check("passkeys", "warning", _passkeys, "Set 'passkey_rp_id' to the site's host name.", IDENTITIES),
    Check("clock", "warning", _clock, "Let both machines follow the same time servers.", WATCH),
    Check("key_age", "warning", _key_age, "lowtide keys rotate", SECRETS),
    Check(
        "audit_checkpoints",
        "warning",
        _checkpoints,
        "Set it to s3://bucket/prefix, or a folder of another machine.",
        WATCH,
    ),
    Check(
        "audit_checkpoints_place",
        "warning",
        _checkpoints_place,
        "Set it to s3://bucket/prefix, or a folder of another machine.",
        WATCH,
    ),
    Check("s3_endpoint", "warning", _s3, "Use its https address.", EDGE),
    Check("audit_chain", "warning", _unchained, "Look into the log of the nodes.", WATCH),
    Check("dead_jobs", "warning", _dead, "lowtide jobs: read why, mend it, requeue.", WATCH),
    Check("log_size", "warning", _log, "Find the reader that never ends: a backup, a shell.", WATCH),
    Check("egress", "notice", _egress, "Keep only what the app needs.", EDGE),
    Check("secret_key_place", "notice", _key_place, "Keep it elsewhere, and set 'secret_key_file'.", SECRETS),
    Check("blobs", "notice", _blobs, "Share the folder between the nodes, or use s3://.", SETTINGS),
    Check("backups", "notice", _no_backups, "lowtide doctor --backups FOLDER", SETTINGS),
    Check("min_app_versions", "notice", _versions, "Set it when a released app must go.", CLIENT),
)
"""In the order in which equal findings are told."""
