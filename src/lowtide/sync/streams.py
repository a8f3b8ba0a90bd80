"""Streams: which buckets a record is in, and which buckets a user holds.

A *topic* is the name of something that a connected device may wait for. Three kinds::

    main/team["t1"]           a bucket: its rows changed
    main/?membership.user=u1  a lookup: the keys that user u1 holds may have changed
    main/!u1/3f2a…            a device: one of its uploads was applied

A bucket's topic is also its name in the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.kernel.errors import TooManyBuckets
from lowtide.kernel.schema import (
    Claim,
    Data,
    Everyone,
    Keys,
    Lookup,
    Me,
    OwnDevice,
    Parameter,
    Principal,
    Schema,
    Stream,
    Wire,
)

DEVICE_STREAM = "lowtide"
"""The stream of a device's own rows: rejections and commands. Its key is ``device_key``."""

MAX_BUCKETS = 1_000
"""Buckets that one device may hold."""

_encode = msgspec.json.Encoder().encode

Holding = Mapping[str, int]
"""Key text -> how many records grant it."""


class Subscription(msgspec.Struct, frozen=True):
    """A stream that a device asked for by name."""

    stream: str
    parameters: Mapping[str, Any] = {}
    priority: int | None = None


class Held(msgspec.Struct, frozen=True):
    """One bucket that a device is to hold, and why."""

    topic: str
    stream: str
    priority: int
    subscriptions: tuple[int | None, ...]
    """Indexes of the subscriptions that ask for it; None: it comes by default."""
    defer: bool = False
    """Its first download waits while the network is metered."""


class Reach(msgspec.Struct, frozen=True):
    """Where the records of one model are that a user receives, within one space."""

    space: str
    topics: tuple[str, ...] = ()
    """The buckets that carry them."""
    fields: tuple[str, ...] = ()
    """Every record where one of these has a value, too: any user may subscribe to any of them."""
    whole: bool = False
    """All of the space."""


def key_text(value: Wire) -> str:
    """A key as it stands in a bucket's name: JSON, so that no value can look like another."""
    return _encode(value).decode()


def device_key(user: str, client_id: str) -> str:
    """The key of a device's own bucket. It names the user: a client_id alone is not a secret."""
    return f"{user}/{client_id}"


def device_topic(space: str, user: str, client_id: str) -> str:
    """Told when an upload of the device was applied."""
    return f"{space}/!{user}/{client_id}"


def bucket_topic(space: str, stream: str, key: str) -> str:
    """The name of a bucket; ``key`` is a ``key_text``, empty for everyone's."""
    return f"{space}/{stream}[{key}]"


def taken(lookup: Lookup, id: str, data: Data) -> Wire:
    """The key that the record ``id`` gives to the user whom it names; None: none."""
    return id if lookup.take == "id" else data.get(lookup.take)


def lookup_topic(space: str, lookup: Lookup, user: str) -> str:
    """Told when the records that grant keys to ``user`` changed."""
    return f"{space}/?{lookup.model}.{lookup.match}={user}"


def is_lookup(topic: str) -> bool:
    """Is it a ``lookup_topic``?"""
    return topic.partition("/")[2].startswith("?")


class Streams:
    """A schema's streams, arranged for asking. Immutable and cheap to ask: no I/O."""

    def __init__(self, schema: Schema):
        self._streams = dict(schema.streams)
        self._carrying: dict[str, list[tuple[Stream, str | None]]] = {}
        lookups: dict[Lookup, None] = {}
        for stream in schema.streams.values():
            for model, field in stream.carries.items():
                self._carrying.setdefault(model, []).append((stream, field))
            for keys in (stream.keys, stream.keys.within if isinstance(stream.keys, Parameter) else None):
                if isinstance(keys, Lookup):
                    lookups[keys] = None
        self.lookups = tuple(lookups)
        self._lookups_of: dict[str, list[Lookup]] = {}
        for lookup in lookups:
            self._lookups_of.setdefault(lookup.model, []).append(lookup)

    def buckets_of(self, space: str, model: str, id: str, data: Data | None) -> tuple[str, ...]:
        """The names of the buckets that a record with ``data`` is in; none for ``None``."""
        if data is None:
            return ()
        names = []
        for stream, field in self._carrying.get(model, ()):
            if stream.space is not None and stream.space != space:
                continue
            if field is None:
                names.append(f"{space}/{stream.name}[]")
            else:
                value = id if field == "id" else data.get(field)
                if value is not None:
                    names.append(f"{space}/{stream.name}[{_encode(value).decode()}]")
        return tuple(names)

    def lookups_of(self, model: str) -> Iterable[Lookup]:
        """The lookups that a change of ``model`` may alter."""
        return self._lookups_of.get(model, ())

    def holds(self, principal: Principal, stream: str, key: Any, holdings: Mapping[Lookup, Holding]) -> bool:
        """Does the user hold this key of this stream?"""
        declared = self._streams.get(stream)
        if declared is None or key is None:
            return False
        keys = declared.keys.within if isinstance(declared.keys, Parameter) else declared.keys
        if keys is None:
            return True
        if isinstance(keys, OwnDevice):
            return False
        return isinstance(keys, Everyone) or key_text(key) in self._key_texts(principal, keys, holdings)

    def sees(
        self,
        principal: Principal,
        space: str,
        model: str,
        id: str,
        data: Data,
        holdings: Mapping[Lookup, Holding],
    ) -> bool:
        """Does the user receive a record with ``data``, by default or by subscription?

        The app's own code sees all of its space. Nobody sees a device's own rows so.
        """
        if principal.server:
            return space == principal.space
        for stream, field in self._carrying.get(model, ()):
            if (stream.space or principal.space) != space or isinstance(stream.keys, OwnDevice):
                continue
            value = None if field is None else id if field == "id" else data.get(field)
            if field is not None and value is None:
                continue
            keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
            text = "" if field is None else key_text(value)
            if keys is None or text in self._key_texts(principal, keys, holdings):
                return True
        return False

    def carrying(self, model: str) -> Sequence[tuple[Stream, str | None]]:
        """The streams that carry ``model``, with the field that says in which bucket each record is."""
        return self._carrying.get(model, ())

    def spaces(self, principal: Principal, model: str) -> Sequence[str]:
        """The spaces whose records of ``model`` a user may receive, the user's own first."""
        others = {stream.space for stream, _ in self.carrying(model)} - {None, principal.space}
        return (principal.space, *sorted(space for space in others if space is not None))

    def keys_held(
        self, principal: Principal, stream: Stream, holdings: Mapping[Lookup, Holding]
    ) -> Iterable[str]:
        """The keys of ``stream`` that the user holds; none where any may be asked for."""
        keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
        return (
            () if keys is None or isinstance(keys, OwnDevice) else self._key_texts(principal, keys, holdings)
        )

    def reach(self, principal: Principal, model: str, holdings: Mapping[Lookup, Holding]) -> list[Reach]:
        """Where the records of ``model`` are that ``sees`` says yes to; at most one for each space.

        Raises ``TooManyBuckets`` when a user's lie in more than ``MAX_BUCKETS`` buckets.
        """
        if principal.server:
            return [Reach(principal.space, whole=True)]
        found: dict[str, tuple[dict[str, None], list[str]]] = {}
        for stream, field in self._carrying.get(model, ()):
            keys = stream.keys.within if isinstance(stream.keys, Parameter) else stream.keys
            if isinstance(keys, OwnDevice):
                continue
            space = stream.space or principal.space
            topics, fields = found.setdefault(space, ({}, []))
            if keys is None:
                fields.append(field or "id")
                continue
            for key in self._key_texts(principal, keys, holdings):
                topics[bucket_topic(space, stream.name, key)] = None
                if len(topics) > MAX_BUCKETS:
                    raise TooManyBuckets(f"this user holds more than {MAX_BUCKETS} buckets")
        return [Reach(space, tuple(topics), tuple(fields)) for space, (topics, fields) in found.items()]

    def topic_held(
        self, principal: Principal, client_id: str, name: str, holdings: Mapping[Lookup, Holding]
    ) -> str | None:
        """The topic of the bucket that devices know as ``name``, such as ``team["t1"]``, if this one may
        hold it, by default or by subscription."""
        stream, _, rest = name.partition("[")
        declared = self._streams.get(stream)
        if declared is None or rest[-1:] != "]":
            return None
        key = rest[:-1]
        keys = declared.keys.within if isinstance(declared.keys, Parameter) else declared.keys
        if isinstance(keys, OwnDevice):
            allowed = key == key_text(device_key(principal.user, client_id))
        else:
            allowed = keys is None or key in self._key_texts(principal, keys, holdings)
        return bucket_topic(declared.space or principal.space, stream, key) if allowed else None

    def held(
        self,
        principal: Principal,
        client_id: str,
        holdings: Mapping[Lookup, Holding],
        include_defaults: bool,
        subscriptions: tuple[Subscription, ...],
    ) -> list[Held]:
        """Every bucket that a device is to hold, each once, in order of priority.

        A subscription to an unknown stream gives nothing; the caller reports it. Raises ``TooManyBuckets``
        when subscriptions ask for more than a device may hold; what comes by default is not counted.
        """
        found: dict[str, Held] = {}

        def hold(stream: Stream, key: str, priority: int, subscription: int | None) -> None:
            topic = bucket_topic(stream.space or principal.space, stream.name, key)
            before = found.get(topic)
            found[topic] = Held(
                topic,
                stream.name,
                min(priority, before.priority) if before else priority,
                (*before.subscriptions, subscription) if before else (subscription,),
                stream.on_metered == "defer",
            )

        for stream in self._streams.values():
            if isinstance(stream.keys, OwnDevice):
                own = key_text(device_key(principal.user, client_id))
                hold(stream, own, stream.priority, None)
            elif stream.default and include_defaults:
                for key in self._keys(principal, stream.keys, holdings, {}):
                    hold(stream, key, stream.priority, None)
        for index, wanted in enumerate(subscriptions):
            asked = self._streams.get(wanted.stream)
            if asked is None or isinstance(asked.keys, OwnDevice):
                continue
            priority = asked.priority if wanted.priority is None else wanted.priority
            for key in self._keys(principal, asked.keys, holdings, wanted.parameters):
                hold(asked, key, priority, index)
                if len(found) > MAX_BUCKETS:
                    raise TooManyBuckets(f"more than {MAX_BUCKETS} buckets were asked for")
        return sorted(found.values(), key=lambda held: held.priority)

    def named(self, stream: str) -> Stream | None:
        """The stream of that name."""
        return self._streams.get(stream)

    def default(self, stream: str) -> bool:
        """Is it sent without being asked for?"""
        return self._streams[stream].default

    def names(self) -> Iterable[str]:
        """Every stream's name."""
        return self._streams

    def _keys(
        self,
        principal: Principal,
        keys: Keys,
        holdings: Mapping[Lookup, Holding],
        parameters: Mapping[str, Any],
    ) -> Iterable[str]:
        if isinstance(keys, Parameter):
            wanted = parameters.get(keys.name)
            values = wanted if isinstance(wanted, list) else [wanted]
            if len(values) > MAX_BUCKETS:
                raise TooManyBuckets(f"{len(values)} keys were asked for; {MAX_BUCKETS} are allowed")
            chosen = {key_text(value) for value in values if isinstance(value, str | int | float)}
            if keys.within is None:
                return sorted(chosen)
            return sorted(chosen & set(self._key_texts(principal, keys.within, holdings)))
        if isinstance(keys, OwnDevice):
            return ()
        return self._key_texts(principal, keys, holdings)

    def _key_texts(
        self,
        principal: Principal,
        keys: Me | Everyone | Claim | Lookup,
        holdings: Mapping[Lookup, Holding],
    ) -> Iterable[str]:
        if isinstance(keys, Me):
            return (key_text(principal.user),)
        if isinstance(keys, Everyone):
            return ("",)
        if isinstance(keys, Claim):
            value = principal.claims.get(keys.name)
            values = value if isinstance(value, list) else [value]
            return [key_text(v) for v in values if isinstance(v, str | int | float)]
        return holdings.get(keys, {})
