"""What an app declared, as values: models, fields, streams, functions, hooks.

Nothing here runs. ``declare.py`` builds these from an app's Python, ``sync`` reads them. All values
are immutable, so a schema may be shared by every thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from lowtide.kernel.errors import Malformed

Kind = Literal["text", "integer", "number", "boolean", "timestamp", "json", "reference", "attachment"]
"""What a field holds. On devices: TEXT, but INTEGER for integer and boolean, and REAL for number."""

MergeRule = Literal[
    "latest",  # the later write wins, the loser goes to the journal (default)
    "counter",  # increments add up
    "set",  # a JSON array without order; an add wins over a concurrent remove
    "list",  # a JSON array with order; both inserts are kept
    "text",  # three-way on text; both edits are kept
    "collaborative",  # a Yjs document, base64
    "max",
    "min",
    "first",  # the first value that is not empty stays
    "server",  # devices may read it, only the server writes it
    "custom",  # resolve(base, mine, theirs, context)
]

Wire = str | int | float | None
"""A field's value as devices hold it: SQLite's scalars. Structured values are canonical JSON text."""

Data = dict[str, Wire]
"""One record's fields on the wire, without its id. Every declared field is present."""


class Resolving(msgspec.Struct, frozen=True):
    """What a custom resolver is told besides the three values."""

    model: str
    id: str
    field: str
    user: str
    mine_is_later: bool


Resolve = Callable[[Any, Any, Any, Resolving], Any]
"""(base, mine, theirs, context) -> value, on decoded values. Pure; runs inside the transaction."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One declared field."""

    name: str
    kind: Kind
    merge: MergeRule = "latest"
    optional: bool = False
    default: Wire = None
    max_length: int | None = None
    """Characters of a text; bytes of the JSON text of a set, list or json."""
    model: str | None = None
    """The name of the model that a reference points to."""
    resolve: Resolve | None = None
    renamed_from: str | None = None
    """The field's former name: still sent to devices and accepted from them."""
    removed: bool = False
    """No longer in the app: kept, sent and accepted for the versions that still use it."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One declared model."""

    name: str
    fields: Mapping[str, Field]
    unique: tuple[tuple[str, ...], ...] = ()
    """Each a tuple of field names whose values no two live records of a space may share."""
    indexes: tuple[str, ...] = ()
    """Fields that are looked up by value; those that streams look up are always in."""
    write: Callable[[Any, Any, Any], bool] | None = None
    """(me, before, after) -> may this device's write happen? None: no device writes here."""
    before_write: Callable[[Any, Any, Any], Any] | None = None
    """(me, before, after) -> None, or a dict of changed fields; raises Refused. In the transaction."""
    after_commit: Callable[[Any], Awaitable[None]] | None = None
    """Told of each change after it is durable; at least once, as a job."""
    on_delete: Literal["delete", "revive"] = "delete"
    """What a deletion does to an edit that did not know of it: win, or be undone by it."""
    removed: bool = False


class Me(msgspec.Struct, frozen=True, tag="me"):
    """The user's id is the key."""


class Everyone(msgspec.Struct, frozen=True, tag="everyone"):
    """One bucket for all: public within the space."""


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """A claim of the token is the key: a string, or a list of them. Device facts are claims too."""

    name: str


class OwnDevice(msgspec.Struct, frozen=True, tag="device"):
    """The device itself is the key: its own rejections and commands."""


class Lookup(msgspec.Struct, frozen=True, tag="lookup"):
    """Field ``take`` of every live record of ``model`` whose field ``match`` is the user's id."""

    model: str
    match: str
    take: str


class Parameter(msgspec.Struct, frozen=True, tag="parameter"):
    """What the client asked for by name, if ``within`` holds it (None: any value is allowed)."""

    name: str
    within: Me | Everyone | Claim | Lookup | None = None


Keys = Me | Everyone | Claim | OwnDevice | Lookup | Parameter


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows go into which bucket, and which buckets a user holds."""

    name: str
    carries: Mapping[str, str | None]
    """Model name -> the field whose value is the bucket's key; None: the one bucket of Everyone."""
    keys: Keys
    priority: int = 3
    """0 to 3; a lower number arrives first."""
    default: bool = True
    """Sent without being asked for; otherwise only to devices that subscribe."""
    on_metered: Literal["send", "defer"] = "send"
    space: str | None = None
    """Another space that every space reads, such as a catalogue."""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A server function that devices call, online or as an offline command."""

    name: str
    call: Callable[..., Awaitable[Any]]
    parameters: Mapping[str, type]
    """Argument name -> type, for decoding."""
    required: frozenset[str] = frozenset()


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an app declared."""

    name: str
    models: Mapping[str, Model]
    streams: Mapping[str, Stream]
    functions: Mapping[str, Function] = {}
    hooks: Mapping[str, Callable[[Any], Awaitable[Any]]] = {}
    """Of signing in, by moment: ``before_`` or ``after_``, and ``sign_up`` or ``sign_in``."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking, as the token proved it."""

    user: str
    space: str = "main"
    """No name with a "/": it is what ends a space's name wherever the two stand in one text."""
    claims: Mapping[str, Any] = {}
    expires_at: int | None = None
    """Milliseconds since 1970; None: never (the server itself)."""
    server: bool = False
    """The app's own code: write rules do not bind it, and it may write server-only fields."""
    admin: bool = False
    """May use the admin addresses: a user with the role ``admin``, or the app's own server."""
    session: str = ""
    """The sign-in that the token belongs to; "" for a token that was signed without one."""
    epoch: int = 0
    """Of the session, when the token was signed."""
    auth_time: int = 0
    """When the user last proved who they are, in milliseconds since 1970; 0: never, or not known."""
    amr: tuple[str, ...] = ()
    """How (RFC 8176)."""
    roles: tuple[str, ...] = ()
    """In this space; also in ``claims`` under that name, for rules and streams."""
    scope: tuple[str, ...] = ()
    """What an OAuth client was granted; empty for the app itself."""
    client: str = ""
    """The OAuth client that the token was given to; "" for the app itself."""
    jkt: str = ""
    """The thumbprint of the key that a request must prove to hold (RFC 9449); "": a bearer token."""
    aliases: tuple[str, ...] = ()
    """Ids under which this user wrote before their accounts were merged."""

    def __post_init__(self) -> None:
        if "/" in self.space:
            raise Malformed(f"A space's name has no '/': {self.space!r}.")
