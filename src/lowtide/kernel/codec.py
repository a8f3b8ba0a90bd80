"""JSON in and out: with limits, and in its one canonical form.

What is decoded here has passed every limit: size, depth, numbers that fit 64 bits, text that any
database can hold. So nothing behind it has to look again.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Hashable
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import inspect

from lowtide.kernel.errors import Malformed, TooLarge

T = TypeVar("T")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that SQLite and PostgreSQL can hold. As a field's type it costs nothing to check."""

Scalar = str | Int64 | float | bool | None
"""A field's value on the wire."""

_LOW, _HIGH = -(2**63), 2**63 - 1


def decode_json(body: bytes | str, *, max_bytes: int, max_depth: int = 32) -> Any:
    """The value of the JSON text ``body``, as dicts, lists and scalars.

    Raises ``TooLarge`` beyond ``max_bytes`` bytes, before anything is read. Raises ``Malformed``,
    with ``offset`` (byte) or ``path`` where it is known, for what RFC 8259 does not allow, invalid
    UTF-8, a lone surrogate, U+0000 in a text or a name (PostgreSQL cannot hold it), an integer
    beyond 64 bits, a number beyond a double, and more than ``max_depth`` nested lists and objects.
    Of two equal names in one object the last counts, as in every SDK's parser.

    Linear in the body, 4 to 11 ns a byte; the most where hundreds of objects make the depth worth
    measuring.
    """
    raw = _raw(body, max_bytes)
    return _decode(msgspec.json.decode, raw, depth=max_depth, integers=True)


def decode_as(
    kind: type[T], body: bytes | str, *, max_bytes: int, max_depth: int = 32, parts: bool = False
) -> T:
    """``body`` as a value of ``kind``, any type that msgspec knows. Raises as ``decode_json`` does.

    What ``kind`` bounds by itself is not checked again: with ``Int64`` and ``Scalar`` in place of
    ``int`` and ``Any`` the checks are one search for U+0000, 0.4 ns a byte over the decoder's 3.3.
    Names that ``kind`` does not have are skipped; what stands there must be JSON, and is kept nowhere.
    ``parts``: U+0000 and integers beyond 64 bits are let through, for a caller that answers each part by
    itself.
    """
    raw = _raw(body, max_bytes)
    decode, depth, integers = _decoder(cast(Hashable, kind))
    value: T = _decode(
        decode,
        raw,
        depth=None if depth <= max_depth else max_depth,
        integers=integers and not parts,
        nul=parts,
    )
    return value


def canonical_json(value: Any) -> str:
    """The one JSON text of a JSON value: no spaces, names sorted by code point, nothing escaped
    that need not be.

    Numbers stay what they are: 1 and 1.0 are different values with different texts; a double has
    the shortest digits that name it. Equal texts, equal values; the same on every machine.
    ``ValueError`` for NaN, infinities and lone surrogates, ``TypeError`` for names that are not texts:
    none of them comes out of ``decode_json``.
    """
    text = _canonical.encode(value)
    # The encoder writes NaN and the infinities as null.
    if b"null" in text and not _finite(value):
        raise ValueError("JSON has no NaN and no infinity")
    return text.decode()


_canonical = msgspec.json.Encoder(order="sorted")


def _finite(value: Any) -> bool:
    waiting = [value]
    for item in waiting:
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif isinstance(item, float) and not math.isfinite(item):
            return False
    return True


def _raw(body: bytes | str, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise TooLarge(f"The body is larger than {max_bytes} bytes.", limit=max_bytes)
    if isinstance(body, bytes):
        return body
    try:
        raw = body.encode()
    except UnicodeEncodeError:
        raise Malformed("A text holds half a surrogate pair.") from None
    return _raw(raw, max_bytes)


def _decode(
    decode: Callable[[bytes], T], body: bytes, *, depth: int | None, integers: bool, nul: bool = False
) -> T:
    # The decoder's own guard stops at about 1000 levels, long before the stack ends.
    try:
        value = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error, body) from None
    if not nul and (offset := find_nul(body)) >= 0:
        raise Malformed(f"A text holds the character U+0000, at byte {offset}.", offset=offset)
    if depth is not None and _deeper(body, depth):
        raise Malformed(f"Lists and objects are nested deeper than {depth} levels.", limit=depth)
    if integers and _may_be_beyond(body) and (path := _beyond(msgspec.json.decode(body))) is not None:
        raise Malformed(f"An integer does not fit 64 bits, at {path}.", path=path)
    return value


def find_nul(json: bytes) -> int:
    """The offset of the first U+0000 in a text of valid JSON, or -1."""
    # rfind, because it skips by the backslash: three times as fast here as ``in``.
    if b"\\" in json and json.rfind(b"\\u0000") >= 0 and (found := _NUL.search(json)):
        return found.end() - 6
    return -1


_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_LONG_NUMBER = re.compile(rb"(?:^|[-:,\[\s])0{19}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATES = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<lone>\\u[dD][89a-fA-F]))", re.DOTALL
)
_TEXT = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _deeper(body: bytes, limit: int) -> bool:
    """Does valid JSON nest deeper than ``limit``? A handful of linear passes at memory speed."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = _TEXT.sub(b"", body.translate(_BRACKETS, _OTHERS).replace(b'""', b""))
    for _ in range(limit):
        # Takes away every innermost pair, so one level.
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _may_be_beyond(body: bytes) -> bool:
    # Only 19 digits and more can leave 64 bits. The first pass costs 0.7 ns a byte, the second ten
    # times as much and runs only for bodies with such a text or number.
    digits = body.translate(_DIGITS)
    return b"0" * 19 in digits and _LONG_NUMBER.search(digits) is not None


def _beyond(value: Any) -> str | None:
    """Where ``value`` holds an integer beyond 64 bits: ``$.a[1]``; None when nowhere."""
    waiting = [("$", value)]
    for path, item in waiting:
        if isinstance(item, dict):
            waiting.extend((f"{path}.{name}", inner) for name, inner in item.items())
        elif isinstance(item, list):
            waiting.extend((f"{path}[{at}]", inner) for at, inner in enumerate(item))
        elif isinstance(item, int) and not _LOW <= item <= _HIGH:
            return path
    return None


def _refusal(error: Exception, body: bytes) -> Malformed:
    """The decoder's ``error`` in our words."""
    message = str(error)
    if isinstance(error, RecursionError):
        return Malformed("Lists and objects are nested too deeply.")
    if isinstance(error, msgspec.ValidationError):
        problem, _, place = message.partition(" - at ")
        path = place.strip("`") or "$"
        return Malformed(f"{problem}, at {path}.", path=path)
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return Malformed(f"The body is not UTF-8, at byte {broken.start}.", offset=broken.start)
    # The decoder calls half a pair "truncated".
    for found in _SURROGATES.finditer(body):
        if found["lone"]:
            offset = found.start("lone")
            return Malformed(f"A text holds half a surrogate pair, at byte {offset}.", offset=offset)
    known = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", message)
    if known is None:
        return Malformed(f"The body is not JSON: it ends too early, at byte {len(body)}.", offset=len(body))
    return Malformed(f"The body is not JSON: {known[1]} at byte {known[2]}.", offset=int(known[2]))


@functools.lru_cache(maxsize=256)
def _decoder(kind: Hashable) -> tuple[Callable[[bytes], Any], float, bool]:
    """A decoder, how deep its values can nest, and whether they can hold an integer beyond 64 bits."""
    depth, integers = _shape(inspect.type_info(kind), ())
    return msgspec.json.Decoder(kind).decode, depth, integers


def _shape(info: inspect.Type, above: tuple[type, ...]) -> tuple[float, bool]:
    match info:
        case inspect.AnyType() | inspect.RawType() | inspect.CustomType() | inspect.ExtType():
            return math.inf, True
        case inspect.IntType():
            low = info.ge if info.ge is not None else info.gt
            high = info.le if info.le is not None else info.lt
            return 0, low is None or high is None or low < _LOW or high > _HIGH
        case inspect.Metadata():
            return _shape(info.type, above)
        case inspect.UnionType():
            return _widest(info.types, above, 0)
        case inspect.TupleType():
            return _widest(info.item_types, above, 1)
        case inspect.DictType():
            return _widest((info.key_type, info.value_type), above, 1)
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            return _widest((info.item_type,), above, 1)
        case (
            inspect.StructType()
            | inspect.TypedDictType()
            | inspect.DataclassType()
            | inspect.NamedTupleType()
        ):
            if info.cls in above:
                return math.inf, True
            return _widest(tuple(field.type for field in info.fields), (*above, info.cls), 1)
        case _:
            return 0, False


def _widest(parts: tuple[inspect.Type, ...], above: tuple[type, ...], levels: int) -> tuple[float, bool]:
    shapes = [_shape(part, above) for part in parts]
    return levels + max((depth for depth, _ in shapes), default=0), any(wide for _, wide in shapes)
