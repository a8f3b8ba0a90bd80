"""How one server is set up: ``lowtide.toml``, then ``LOWTIDE_*`` in the environment.

A key that nobody knows is an error, in the file as in the environment: a typing mistake in
``LOWTIDE_DATABASE`` must not start a server on an empty database.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from lowtide.kernel.clients import Client
from lowtide.kernel.errors import SetupError
from lowtide.kernel.upstream import Upstream

FILE = "lowtide.toml"
PREFIX = "LOWTIDE_"
ENVIRONMENT_ONLY = frozenset({"secret_key"})
"""A file in a repository is no place for these."""
SECRET = frozenset({"s3_secret", "sms_authorization", "sms_body", "play_decryption_key"})
"""Shown to nobody; nor is what is called a secret in a table, or a password in an address."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
PublicUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(https://[a-z0-9.-]+(:\d{1,5})?|http://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?)?$",
        description="https://api.example.com, without a path; or http for this machine",
    ),
]
Host = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})$",
        description="names such as api.example.com, without https and without a port; * stands for nothing",
    ),
]
Hosts = Annotated[tuple[Host, ...], msgspec.Meta(min_length=1)]
Origin = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s]+/?)$",
        description="origins such as https://app.example.com, without a path",
    ),
]
DatabaseAddress = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(postgres(ql)?://.+|(?!\w[\w+.-]*://)[^\s].*)$",
        description="the path of a SQLite file, or postgresql://user:password@host/name",
    ),
]
Days = Annotated[int, msgspec.Meta(ge=1, le=36500)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operator may choose. Each key is also ``LOWTIDE_<KEY>``, lists with commas."""

    app: str = "app:app"
    """Where the app is declared: module and name, looked for in the project's folder."""
    database: DatabaseAddress = "data/data.db"
    """A SQLite file, relative to the project's folder; or ``postgresql://user:password@host/name``."""
    secret_key_file: str = ""
    """The key that seals secrets at rest. Empty: beside the SQLite database, made at the first start."""
    secret_key: str = ""
    """The key itself, instead of a file; only in the environment."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 8420
    """The port to listen on; 0 takes any that is free."""
    public_url: PublicUrl = ""
    """The address under which clients reach this server, such as ``https://api.example.com``: what its
    tokens, its sign-in pages and the links in its mails name. https, or http for this machine;
    without it, ``http://localhost`` and the port."""
    allowed_hosts: Annotated[tuple[Host, ...], msgspec.Meta(min_length=1)] = (
        "localhost",
        "127.0.0.1",
        "[::1]",
    )
    """The names under which clients reach this server; any other ``Host`` is refused."""
    cors_origins: tuple[Origin, ...] = ()
    """Web pages that may call this server, such as ``https://app.example.com``."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose ``X-Forwarded-For`` and ``-Proto`` are believed."""
    rate_limits: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Multiplies how often somebody may ask (docs/hardening.md); 0 switches these limits off."""
    min_app_versions: tuple[str, ...] = ()
    """The oldest version served on a platform, and its store: ``ios 2.1.0 https://...`` each."""
    bridge_schemas: tuple[str, ...] = ()
    """The oldest schema of clients of the bridges: ``watermelondb 3``, ``rxdb/task 1``."""
    egress_allowed: tuple[str, ...] = ()
    """Hosts, ``host`` or ``host:port``, that may be asked at private addresses and without TLS."""
    egress_ca_file: str = ""
    """Certificates that are trusted for requests to other servers, instead of the system's."""
    worker: bool = True
    """Does this process run jobs? Without it, it serves only: hooks and commands run on other nodes."""
    smtp_url: str = ""
    """The mail server: ``smtp://user:password@host:587``, or ``smtps://`` for TLS from the start."""
    mail_from: str = ""
    """The sender of mails: ``Notes <no-reply@example.com>``."""
    sms_url: str = ""
    """Where text messages are handed over, by a POST each."""
    sms_body: str = '{"to": "$to", "text": "$text"}'
    """What is posted: JSON, or a form such as ``From=+15005550006&To=$to&Body=$text``."""
    sms_authorization: str = ""
    """The ``Authorization`` header of these requests, such as ``Bearer`` and a key."""
    sms_prefixes: tuple[str, ...] = ()
    """The numbers that get text messages, such as ``+41`` and ``+49``; all if empty."""
    sms_per_hour: Annotated[int, msgspec.Meta(ge=1)] = 100
    """Text messages to the numbers of one country, in an hour."""
    leaked_passwords: str = ""
    """A file of passwords that nobody may choose: what ``lowtide passwords build`` wrote."""
    removals_kept_days: Days = 90
    """A device that was away for longer than this downloads its data anew."""
    journal_kept_days: Days = 90
    """How long values that lost a conflict can be restored."""
    blobs: str = "data/blobs"
    """Where what is no record is kept, such as archives: a folder, or ``s3://bucket/prefix``."""
    s3_endpoint: str = ""
    """Where every ``s3://`` address is: ``https://s3.example.com``; AWS if empty."""
    s3_region: str = "us-east-1"
    """Its region."""
    s3_key_id: str = ""
    """The id of the access key for it."""
    s3_secret: str = ""
    """The access key's secret."""
    audit_checkpoints: str = ""
    """Where the hourly signed checkpoints of the audit log are put: a folder, best on another machine's disk,
    or ``s3://bucket/prefix``."""
    audit_kept_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0
    """Older entries of the audit log move into archives in ``blobs``, without personal data; 0: none does."""
    passkey_rp_id: str = "localhost"
    """The host name for which passkeys are made: the site's, or a domain above it. It cannot be changed
    later without losing every passkey."""
    passkey_origins: tuple[str, ...] = ()
    """Web pages that may use passkeys, besides ``https://`` and ``passkey_rp_id``; Android apps are
    known by ``android_apps``."""
    android_apps: tuple[str, ...] = ()
    """Android apps of this site: ``com.example.app=AB:CD:...``, the SHA-256 of the signing certificate."""
    apple_apps: tuple[str, ...] = ()
    """Apple apps of this site: team's id, dot, bundle's id, such as ``ABCDE12345.com.example.app``."""
    app_paths: tuple[str, ...] = ()
    """Links to this site that Apple apps open, such as ``/invite/*``."""
    apple_client_ids: tuple[str, ...] = ()
    """Bundle ids and service ids whose id tokens of Sign in with Apple are taken."""
    apple_team_id: str = ""
    """The team that ``apple_key_file`` belongs to."""
    apple_key_id: str = ""
    """The name of the key in ``apple_key_file``."""
    apple_key_file: str = ""
    """A ``.p8`` key for Sign in with Apple: with it, deleting an account revokes Apple's tokens, too."""
    google_client_ids: tuple[str, ...] = ()
    """OAuth client ids whose id tokens of Google are taken; for Android that of the *web* client."""
    upstreams: tuple[Upstream, ...] = ()
    """OpenID providers with which users may sign in: an ``[[upstreams]]`` table each; in the environment
    a JSON list."""
    app_redirects: tuple[str, ...] = ()
    """Where such a provider may send the user back to, such as ``com.example.app:/signed-in``; exactly."""
    attestation: Literal["off", "monitor", "enforce"] = "off"
    """Must devices prove that they are genuine? ``monitor`` logs which do not, ``enforce`` refuses them."""
    attestation_routes: tuple[str, ...] = ()
    """Where: ``POST /v1/sync/batches``, or ``POST /v1/records*``. Empty: all for users but signing in."""
    attestation_development: bool = False
    """Are keys of Apple's sandbox taken, too?"""
    play_decryption_key: str = ""
    """Play Integrity's decryption key, as the Play Console shows it."""
    play_verification_key: str = ""
    """Play Integrity's verification key, as the Play Console shows it."""
    reference: bool = True
    """Serve the API's description at ``/v1/openapi.json`` and as a page at ``/docs``; it holds no data."""
    clients: tuple[Client, ...] = ()
    """Apps that sign their users in through this server's pages: a ``[[clients]]`` table each; in the
    environment a JSON list."""

    @property
    def address(self) -> str:
        """Where clients reach this server: ``public_url``, or this machine. Without a slash at the end."""
        return self.public_url or f"http://localhost:{self.port}"

    @property
    def postgres(self) -> bool:
        """Is the database PostgreSQL, rather than a SQLite file?"""
        return self.database.startswith(("postgresql://", "postgres://"))


def without_secrets(settings: Settings) -> Settings:
    """``settings`` without keys, without what is secret and without the passwords in addresses."""
    shown = {
        field.name: "..." if field.name in SECRET and value != field.default else _without_password(value)
        for field in msgspec.structs.fields(settings)
        if isinstance(value := getattr(settings, field.name), str)
    }
    hidden = {"client_secret": "..."}
    bare = tuple([msgspec.structs.replace(one, **hidden) for one in settings.upstreams])
    return msgspec.structs.replace(settings, **shown | dict.fromkeys(ENVIRONMENT_ONLY, ""), upstreams=bare)


def _without_password(text: str) -> str:
    text = re.sub(r"(?<=://)([^/@\s]*:)[^/\s]*(?=@)", r"\1...", text)
    return re.sub(r"([?&]\w*(?:password|secret|token|key)=)[^&#\s]*", r"\1...", text)


def load(folder: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of the project in ``folder``; defaults where nothing is said.

    Raises ``SetupError`` for a file that is not TOML, an unknown key and a value of another type.
    A relative SQLite path comes back relative to ``folder``.
    """
    file = folder / FILE
    chosen: dict[str, Any] = {}
    types = get_type_hints(Settings, include_extras=True)
    for key, value in _read(file).items():
        if key in ENVIRONMENT_ONLY:
            raise SetupError(
                f"'{key}' does not belong into {file}.",
                hint=f"Put it into the environment as {PREFIX}{key.upper()}, or use 'secret_key_file'.",
            )
        chosen[key] = _value(types, key, value, str(file), strict=True)
    for name, text in environ.items():
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).lower()
            value = _read_text(types.get(key), text)
            chosen[key] = _value(types, key, value, f"environment ({name})", strict=False)
    settings = Settings(**chosen)
    if settings.secret_key_file:
        settings = msgspec.structs.replace(settings, secret_key_file=str(folder / settings.secret_key_file))
    if settings.leaked_passwords:
        settings = msgspec.structs.replace(settings, leaked_passwords=str(folder / settings.leaked_passwords))
    if settings.apple_key_file:
        settings = msgspec.structs.replace(settings, apple_key_file=str(folder / settings.apple_key_file))
    for name in ("blobs", "audit_checkpoints"):
        address = getattr(settings, name)
        if address and not address.startswith("s3://"):
            settings = msgspec.structs.replace(settings, **{name: str(folder / address)})
    if not settings.postgres:
        settings = msgspec.structs.replace(settings, database=str(folder / settings.database))
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} cannot be read: {error}.", hint="Check its permissions.") from error
    except tomllib.TOMLDecodeError as error:
        raise SetupError(
            f"{file} is not TOML: {error}.", hint='Text needs quotes: host = "127.0.0.1".'
        ) from error


def _read_text(kind: Any, text: str) -> Any:
    """A value of the environment: lists with commas, tables as JSON."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is not tuple:
        return text
    if _is_table(kind):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_table(kind: Any) -> bool:
    """Is it a list of tables?"""
    first = get_args(kind)[:1]
    return bool(first) and isinstance(first[0], type) and issubclass(first[0], msgspec.Struct)


def _value(types: dict[str, Any], key: str, value: Any, place: str, *, strict: bool) -> Any:
    if key not in types:
        from difflib import get_close_matches

        near = get_close_matches(key, types, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"The keys are: {', '.join(types)}."
        raise SetupError(f"Unknown setting '{key}' in {place}.", hint=hint)
    try:
        found = msgspec.convert(value, types[key], strict=strict)
        if key == "trusted_proxies":
            _check_networks(found)
        return found
    except (msgspec.ValidationError, ValueError) as error:
        reason = str(error).split(" - at ")[0].replace("`", "")
        if "regex" in reason:
            reason = f"expected {_form(types[key]) or 'another form'}"
        hint = _now(types[key], key, value)
        raise SetupError(f"Setting '{key}' in {place}: {reason}.", hint=hint) from error


def _form(kind: Any) -> str:
    """How a text is written, as its type says it; empty if it does not."""
    notes = [note.description for note in getattr(kind, "__metadata__", ()) if note.description]
    return str(notes[0]) if notes else "".join(map(_form, get_args(kind)))


def _now(kind: Any, key: str, value: Any) -> str:
    """What a setting is now, but for what is secret."""
    if key in SECRET:
        return ""
    if _is_table(kind) and isinstance(value, list):
        value = [_bare(one) for one in value]
    elif _is_table(kind):
        return "It is a table each; in the environment a JSON list of objects."
    elif isinstance(value, str):
        value = _without_password(value)
    return f"It is {value!r} now."


def _bare(table: Any) -> Any:
    if not isinstance(table, dict):
        return table
    return {name: "..." if "secret" in name else value for name, value in table.items()}


def _check_networks(texts: tuple[str, ...]) -> None:
    for text in texts:
        try:
            ip_network(text)
        except ValueError:
            raise ValueError("expected addresses, or networks such as 10.0.0.0/8") from None
