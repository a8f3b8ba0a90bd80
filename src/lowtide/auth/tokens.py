"""Access tokens: who is asking, proved by a signature and nothing else.

A token is a JWT in the shape of RFC 9068: ``typ`` at+jwt, signed ES256 by one of the app's keys. The
algorithm is not the token's to choose (RFC 8725): whatever its header says, an ECDSA signature of a
key that we keep is checked, and anything but ES256 in the header is refused before.

A verified token is remembered by its digest until it expires, so a signature is checked once a token
and process: about 100 µs the first time, 1 µs from then on.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import msgspec

from lowtide.auth import jws
from lowtide.auth.keys import LONGEST, KeySource
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import SessionRevoked, TokenExpired, Unauthorized
from lowtide.kernel.schema import Principal

MAX_TOKEN = 8192
"""Characters of a token."""
MAX_NAME = 128
"""Characters of a user's id and of a space's name."""
REGISTERED = frozenset(
    {"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "space", "scope"}
    | {"sid", "epoch", "roles", "amr", "auth_time", "client_id", "cnf", "was", "anonymous"}
)
"""Claims that mean something here; the rest is the app's, in ``Principal.claims``."""
SHOWN = frozenset({"roles", "anonymous"})
"""Those of them that an app's rules and streams may read, too."""
ADMIN = "admin"
"""The role that may use the admin addresses."""
MAX_LIST = 64
"""Entries of a token's lists: roles, amr, former ids."""
CLOCKS_DIFFER = 60
"""Seconds by which the clock of a token's issuer may be wrong."""
SERVER = "server"
"""The scope of the app's own servers."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_HEADER = frozenset({"alg", "typ", "kid"})


class SessionChange(msgspec.Struct, frozen=True):
    """What happened to a session while tokens of it may be around."""

    epoch: int
    """Tokens of an earlier epoch are refused as expired: a new one says what is true now."""
    ended_by: str | None = None
    """Not None: the session is over, and every token of it is refused."""
    wipe: bool = False


class Tokens:
    """Signs tokens and verifies them."""

    def __init__(
        self,
        keys: KeySource,
        clock: Clock,
        *,
        audience: str,
        issuer: str,
        remembered: int = 20_000,
        changes: Mapping[str, SessionChange] | None = None,
    ):
        """``remembered``: verified tokens kept in memory, about 1 KiB each; the least recently seen goes.
        ``changes``: by session, those that ended or changed lately; read at each ``verify``, so it is live.
        """
        self._keys = keys
        self._clock = clock
        self._audience = audience
        self._issuer = issuer
        self._remembered = remembered
        self._changes = {} if changes is None else changes
        self._seen: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        self._generation = keys.generation

    def sign(
        self,
        user: str,
        *,
        space: str = "main",
        ttl: int = 3600,
        claims: Mapping[str, Any] | None = None,
        server: bool = False,
        roles: Sequence[str] = (),
        jkt: str = "",
    ) -> str:
        """A token for ``user``, of no session, that is good for ``ttl`` seconds.

        ``claims`` are the app's own, any JSON; streams may use them as keys. ``server``: for the app's own
        code, which no write rule binds. ``roles``: what the user is in the space. ``jkt``: the thumbprint of
        the key that must be proved with it. Raises as ``issue`` does.
        """
        who = Principal(
            user=user,
            space=_space(space),
            claims=dict(claims or {}),
            server=server,
            roles=tuple(roles),
            jkt=jkt,
        )
        return self.issue(who, ttl=ttl)

    def issue(self, who: Principal, *, ttl: int) -> str:
        """A token for which ``verify`` answers ``who``, good for ``ttl`` seconds.

        ``admin`` and ``expires_at`` follow from the rest. ``ValueError`` for a name that ``verify`` would
        refuse, a claim that is not the app's to set, a ``ttl`` beyond ``LONGEST``, a token that is too long.
        About 110 µs.
        """
        own = {name: value for name, value in who.claims.items() if name not in SHOWN or not who.session}
        if taken := REGISTERED & own.keys():
            raise ValueError(f"these claims are not yours to set: {', '.join(sorted(taken))}")
        if not 0 < ttl <= LONGEST:
            raise ValueError(f"a token is good for 1 to {LONGEST} seconds")
        if not _is_name(who.user):
            raise ValueError(f"not a user's name: {who.user!r}")
        _space(who.space)
        key = self._keys.current
        now = self._clock.now() // 1000
        payload: dict[str, Any] = own | {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": who.user,
            "space": who.space,
            "iat": now,
            "exp": now + ttl,
        }
        payload |= _optional(who)
        header = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid}
        if key.private is None:
            raise ValueError(f"the key {key.kid} only verifies")
        token = jws.write(header, payload, key.private)
        if len(token) > MAX_TOKEN:
            raise ValueError(f"the token is longer than {MAX_TOKEN} characters")
        return token

    def verify(self, token: str) -> Principal:
        """Whom ``token`` stands for. Does no I/O.

        Raises ``TokenExpired`` for one that was good once, ``SessionRevoked`` for one of a session that is
        over, and ``Unauthorized`` for everything else that is wrong with it.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthorized("The token is not a JWT that this server signed.")
        now = self._clock.now()
        if self._generation != self._keys.generation:
            self._seen.clear()
            self._generation = self._keys.generation
        digest = hashlib.sha256(token.encode()).digest()
        seen = self._seen.get(digest)
        if seen is not None:
            if now < seen[1]:
                self._seen.move_to_end(digest)
                self._check_session(seen[0])
                return seen[0]
            del self._seen[digest]
            raise TokenExpired
        principal, until = self._check(token, now)
        self._seen[digest] = (principal, until)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        self._check_session(principal)
        return principal

    def _check_session(self, who: Principal) -> None:
        change = self._changes.get(who.session)
        if change is None:
            return
        if change.ended_by is not None:
            raise SessionRevoked(reason=change.ended_by, wipe=change.wipe)
        if who.epoch < change.epoch:
            raise TokenExpired("What the token says has changed since.")

    def _check(self, token: str, now: int) -> tuple[Principal, int]:
        try:
            signed = jws.read(token, most=MAX_TOKEN)
        except ValueError as error:
            raise Unauthorized(f"The token cannot be read: {error}.") from error
        header = signed.header
        if header.keys() != _HEADER:
            raise Unauthorized("The token's header must hold alg, typ and kid, and nothing else.")
        if header["alg"] != "ES256":
            raise Unauthorized("The token is not signed with ES256.")
        kind = header["typ"]
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") != "at+jwt":
            raise Unauthorized("The token is not an access token: its typ must be at+jwt.")
        kid = header["kid"]
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise Unauthorized("The token is signed with a key that this server does not have.")
        if not jws.verified(signed, key.public):
            raise Unauthorized("The token's signature is wrong.")
        return self._read(signed.claims, now)

    def _read(self, claims: dict[str, Any], now: int) -> tuple[Principal, int]:
        """The claims of a token whose signature is right."""
        if claims.get("iss") != self._issuer:
            raise Unauthorized(f"The token's issuer (iss) is not {self._issuer!r}.")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise Unauthorized(f"The token's audience (aud) is not {self._audience!r}.")
        leeway = CLOCKS_DIFFER * 1000
        issued, expires = _time(claims, "iat"), _time(claims, "exp")
        if issued > now + leeway or ("nbf" in claims and _time(claims, "nbf") > now + leeway):
            raise Unauthorized("The token is from the future: a clock is wrong.")
        if expires <= issued:
            raise Unauthorized("The token expires before it is issued.")
        until = expires + leeway
        if now >= until:
            raise TokenExpired
        user, space, scope = claims.get("sub"), claims.get("space", "main"), claims.get("scope", "")
        if not (_is_name(user) and _is_name(space) and isinstance(scope, str)):
            raise Unauthorized(f"The token's sub and space must be texts of 1 to {MAX_NAME} characters.")
        if "/" in space:
            raise Unauthorized("The token's space holds a '/'.")
        confirmed = claims.get("cnf", {})
        if not isinstance(confirmed, dict) or confirmed.keys() - {"jkt"}:
            raise Unauthorized("The token is bound (cnf) in a way that this server does not know.")
        scopes = tuple(scope.split(" ")) if scope else ()
        roles = _names(claims, "roles")
        server = SERVER in scopes
        principal = Principal(
            user=user,
            space=space,
            claims={name: v for name, v in claims.items() if name not in REGISTERED or name in SHOWN},
            expires_at=expires,
            server=server,
            admin=server or ADMIN in roles,
            session=_text(claims, "sid"),
            epoch=_number(claims, "epoch"),
            auth_time=_time(claims, "auth_time") if "auth_time" in claims else 0,
            amr=_names(claims, "amr"),
            roles=roles,
            scope=scopes,
            client=_text(claims, "client_id"),
            jkt=_text(confirmed, "jkt"),
            aliases=_names(claims, "was"),
        )
        return principal, until


def _optional(who: Principal) -> dict[str, Any]:
    """The claims that most tokens do not have."""
    scope = who.scope if SERVER in who.scope or not who.server else (*who.scope, SERVER)
    claims: dict[str, Any] = {
        "sid": who.session,
        "epoch": who.epoch,
        "auth_time": who.auth_time // 1000,
        "amr": who.amr,
        "roles": who.roles,
        "scope": " ".join(scope),
        "client_id": who.client,
        "cnf": {"jkt": who.jkt} if who.jkt else None,
        "was": who.aliases,
        "anonymous": bool(who.session and who.claims.get("anonymous")),
    }
    return {name: value for name, value in claims.items() if value}


def _space(name: str) -> str:
    if not _is_name(name) or "/" in name:
        raise ValueError(f"not a space's name: {name!r}")
    return name


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if value != "" and not _is_name(value):
        raise Unauthorized(f"The token's {name} is not a text of 1 to {MAX_NAME} characters.")
    return str(value)


def _number(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**53:
        raise Unauthorized(f"The token's {name} is not a whole number.")
    return value


def _names(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = claims.get(name, [])
    if not isinstance(value, list) or len(value) > MAX_LIST or not all(map(_is_name, value)):
        raise Unauthorized(f"The token's {name} is not a list of names.")
    return tuple(value)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and _CONTROL.search(value) is None


def _time(claims: Mapping[str, Any], name: str) -> int:
    """A NumericDate (RFC 7519 section 2) in milliseconds."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise Unauthorized(f"The token's {name} is not a time.")
    return int(value * 1000)
