"""Uploads: from what a device sent to a batch for the writer.

Everything that is wrong with one mutation becomes a refusal of that mutation, never an HTTP error: a
device could not get past it. Only a request that cannot be read at all is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from typing import Any

import msgspec

from lowtide.kernel.clock import corrected
from lowtide.kernel.codec import Int64, canonical_json, find_nul
from lowtide.kernel.errors import Malformed, TooLarge
from lowtide.kernel.schema import Model, Principal, Schema
from lowtide.kernel.values import check_id, coerce_fields
from lowtide.sync.model import Batch, Mutation, Op, Refusal, RefusedMutation, Result, Transaction, Upload

MAX_MUTATIONS = 5_000
"""Mutations of a transaction and of a batch."""

MAX_SENT = 4 * MAX_MUTATIONS
"""What is read at all: more than ``MAX_MUTATIONS`` is refused one by one, beyond this is no connector's."""

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a batch."""


class SentMutation(msgspec.Struct, frozen=True):
    """A mutation as a device sends it. Its content is checked later, one by one."""

    n: int
    op: Any = None
    model: Any = None
    id: Any = None
    data: Any = None
    base: Any = None
    at: Any = None
    metadata: Any = None


class Oversized(msgspec.Struct, frozen=True):
    """Stands for a transaction that was too large to send: ``count`` mutations, ``n`` the last of them."""

    n: Int64
    count: Int64 = 0
    bytes: Int64 = 0


class SentTransaction(msgspec.Struct, frozen=True):
    mutations: list[SentMutation] = []
    oversized: Oversized | None = None


class SentBatch(msgspec.Struct, frozen=True):
    """The body of ``POST /v1/sync/batches``."""

    client_id: str
    transactions: list[SentTransaction]
    lineage: str = ""
    sent_at: int | float | None = None
    gap: bool = False


class UploadAnswer(msgspec.Struct, frozen=True):
    """What a device hears of its batch, once it is durable."""

    client_id: str
    last: int
    head: str
    results: list[Result]


def batch_of(sent: SentBatch, principal: Principal, schema: Schema, now: int, request: str = "") -> Batch:
    """The batch that ``sent`` asks for. ``now``: milliseconds, when it arrived; ``request``: with what id.

    Raises ``Malformed`` for numbers that do not rise or names that no device has, ``TooLarge`` beyond
    ``MAX_SENT`` changes or transactions. Pure; about 10 µs a
    mutation.
    """
    _check_name(sent.client_id, "client_id", 1)
    _check_name(sent.lineage, "lineage", 0)
    numbers: list[int] = []
    digests: list[int] = []
    transactions = []
    latest = 0
    total = sum(len(t.mutations) for t in sent.transactions)
    if max(total, len(sent.transactions)) > MAX_SENT:
        raise TooLarge(f"{total} changes at once; {MAX_MUTATIONS} are allowed", limit=MAX_MUTATIONS)
    for one in sent.transactions:
        mutations: list[Mutation | RefusedMutation] = []
        size = len(one.mutations)
        for mutation in one.mutations:
            # A device's own writes keep their order, whatever its clock did in between.
            latest = max(latest, corrected(_time(mutation.at), _time(sent.sent_at), now))
            content = canonical_json(msgspec.structs.astuple(mutation)).encode()
            if size > MAX_MUTATIONS or total > MAX_MUTATIONS:
                prepared: Mutation | RefusedMutation = _refused(
                    mutation,
                    "transaction_too_large",
                    f"{max(size, total)} changes at once; {MAX_MUTATIONS} are allowed",
                    "Write in smaller transactions.",
                )
            elif find_nul(content) >= 0 and _writes_nul(mutation):
                prepared = _refused(
                    mutation, "invalid", "a text holds the character NUL", "Remove it from the text."
                )
            else:
                prepared = prepare(mutation, schema, latest)
            mutations.append(prepared)
            numbers.append(mutation.n)
            digests.append(_digest(content))
        if one.oversized is not None:
            big = one.oversized
            mutations.append(
                RefusedMutation(
                    n=big.n,
                    op="transaction",
                    model="",
                    id="",
                    sent={"data": {"count": big.count, "bytes": big.bytes}},
                    refusal=Refusal(
                        "transaction_too_large",
                        f"a transaction of {big.count} changes and {big.bytes} bytes was too large to send",
                        "Write in smaller transactions.",
                    ),
                )
            )
            numbers.append(big.n)
            digests.append(big.count ^ big.bytes)
        if mutations:
            transactions.append(
                Transaction(
                    principal=principal,
                    client_id=sent.client_id,
                    lineage=sent.lineage,
                    mutations=mutations,
                    request=request,
                )
            )
    if not numbers:
        raise Malformed("a batch has at least one mutation")
    if numbers[0] < 1 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise Malformed("the numbers n of a batch start at 1 or above and rise")
    if numbers[-1] >= 2**63:
        raise Malformed("a number n is beyond 64 bits")
    head = sent.transactions[0]
    skipped = None if head.mutations else head.oversized
    upload = Upload(
        space=principal.space,
        user=principal.user,
        client_id=sent.client_id,
        lineage=sent.lineage,
        first=numbers[0] if skipped is None else min(skipped.n, skipped.n - skipped.count + 1),
        numbers=numbers,
        digests=digests,
        gap=sent.gap,
    )
    return Batch(transactions=transactions, upload=upload)


def prepare(sent: SentMutation, schema: Schema, at: int) -> Mutation | RefusedMutation:
    """The mutation with its values in wire form, or why it can never be applied."""
    model = schema.models.get(sent.model) if isinstance(sent.model, str) else None
    if model is None:
        return _refused(
            sent, "unknown_model", f"this app has no model {_shown(sent.model)}", "Update the app."
        )
    if sent.op not in ("put", "patch", "delete"):
        return _refused(sent, "invalid", f"no such operation: {_shown(sent.op)}", "Use put, patch or delete.")
    try:
        id = check_id(sent.id)
        data = _fields(model, sent.data, "data")
        base = None if sent.base is None else _base(model, sent.base)
    except ValueError as error:
        return _refused(sent, "invalid", str(error), "Change the value, or update the app.")
    metadata = sent.metadata if isinstance(sent.metadata, str) else None
    return Mutation(
        n=sent.n, op=_OPS[sent.op], model=model.name, id=id, data=data, base=base, at=at, metadata=metadata
    )


_OPS: dict[str, Op] = {"put": "put", "patch": "patch", "delete": "delete"}


def _fields(model: Model, given: Any, what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{what} is not an object")
    return coerce_fields(model, given)


def _base(model: Model, given: Any) -> dict[str, Any]:
    # What a device held before may be odd (an older app's value, or one that was refused): what cannot
    # be read is left out, and that field merges as one whose base is not known.
    if not isinstance(given, dict):
        raise ValueError("base is not an object")
    try:
        return coerce_fields(model, given)
    except ValueError:
        base: dict[str, Any] = {}
        for name, value in given.items():
            with contextlib.suppress(ValueError):
                base.update(coerce_fields(model, {name: value}))
        return base


def _refused(sent: SentMutation, code: str, message: str, hint: str) -> RefusedMutation:
    return RefusedMutation(
        n=sent.n,
        op=_cut(sent.op, 20),
        model=_cut(sent.model, 128),
        id=_cut(sent.id, 128),
        sent={
            "data": sent.data,
            "base": sent.base,
            "metadata": sent.metadata if isinstance(sent.metadata, str) else None,
        },
        refusal=Refusal(code, message, hint),
    )


def _time(value: Any) -> int | None:
    """Milliseconds, which some platforms tell in fractions; None for what is no time."""
    return int(value) if type(value) in (int, float) else None


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _cut(value: Any, length: int) -> str:
    return str(value)[:length].replace("\0", "\ufffd")


def _writes_nul(sent: SentMutation) -> bool:
    # In ``base`` it does no harm: what a device held before may be odd.
    return find_nul(canonical_json([sent.op, sent.model, sent.id, sent.data]).encode()) >= 0


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")


def _check_name(value: str, what: str, least: int) -> None:
    if not least <= len(value) <= 64 or not value.isprintable() or "/" in value:
        raise Malformed(f"{what} is a text of {least} to 64 printable characters without '/'")
