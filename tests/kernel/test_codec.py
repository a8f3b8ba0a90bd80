"""JSON and canonical JSON: what comes in is bounded, what goes out is exact."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.kernel.codec import Int64, Scalar, canonical_json, decode_as, decode_json
from lowtide.kernel.errors import Malformed, TooLarge

LIMIT = 1 << 20

# Without U+0000, which no text may hold; surrogates are never drawn.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
documents = st.dictionaries(texts, values, max_size=4)


class Mutation(msgspec.Struct, frozen=True):
    n: Int64
    data: dict[str, Scalar]


class Loose(msgspec.Struct, frozen=True):
    n: int
    data: dict[str, Any] = {}


class Tree(msgspec.Struct, frozen=True):
    left: Tree | None = None


def same(one: object, other: object) -> bool:
    """Equal, and of equal types: 1, 1.0 and True differ."""
    return repr(one) == repr(other)


def read(body: bytes | str) -> Any:
    return decode_json(body, max_bytes=LIMIT)


# JSON in


@given(values)
@settings(max_examples=80, deadline=None)
def test_decoding_gives_the_value_that_was_written(value: Any) -> None:
    """decode(canonical(v)) is v, types included, and another encoder's text of it reads the same."""
    assert same(sort(read(canonical_json(value))), sort(value))
    assert same(sort(read(json.dumps(value))), sort(value))


def sort(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: sort(value[name]) for name in sorted(value)}
    return [sort(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", {"offset": 0}),
        (b"  ", {"offset": 2}),
        (b'{"a":1', {"offset": 6}),
        (b'{"a":1}}', {}),
        (b'{"a":01}', {"offset": 6}),
        (b"[1,]", {"offset": 3}),
        (b"[NaN]", {"offset": 1}),
        (b"[Infinity]", {"offset": 1}),
        (b"[-Infinity]", {"offset": 2}),
        (b"{'a':1}", {"offset": 1}),
        (b"[1] // no", {}),
        (b"\xef\xbb\xbf1", {"offset": 0}),
        (b'["a\nb"]', {"offset": 3}),
        (b'["\x00"]', {"offset": 2}),
        (b'["\xff"]', {"offset": 2}),
        (b'["\xc3"]', {"offset": 2}),
        (b'["\xed\xa0\x80"]', {"offset": 2}),
        (b'["\xc0\x80"]', {"offset": 2}),
        (b'{"\xff":1}', {"offset": 2}),
        (rb'["\ud800"]', {"offset": 2}),
        (rb'["\udc00"]', {"offset": 2}),
        (rb'["ok", "\ud83d\ude00", "\udc00\ud800"]', {"offset": 24}),
        (rb'["\ud800\ud800"]', {"offset": 2}),
        (rb'["\\\ud800x"]', {"offset": 4}),
        (rb'{"\ud800":1}', {"offset": 2}),
        (rb'["\u0000"]', {"offset": 2}),
        (rb'["\\\u0000"]', {"offset": 4}),
        (rb'["\\u0000","x\u0000"]', {"offset": 13}),
        (rb'{"a":{"b\u0000":1}}', {"offset": 8}),
        (rb'["\u00"]', {}),
        (rb'["\x"]', {}),
        (b"9223372036854775808", {"path": "$"}),
        (b"-9223372036854775809", {"path": "$"}),
        (b'{"a":[1,18446744073709551615]}', {"path": "$.a[1]"}),
        (b"[" + b"9" * 5000 + b"]", {}),
        (b"1e400", {}),
        (b"[-1e309]", {}),
        (b"1e99999999999999999999", {}),
    ],
)
def test_what_cannot_be_kept_is_refused_and_said_where(body: bytes, told: dict[str, object]) -> None:
    """A malformed body is Malformed, in a plain sentence, with the offset or path where it is known."""
    with pytest.raises(Malformed) as refusal:
        read(body)
    assert refusal.value.message.endswith(".")
    assert "\x00" not in refusal.value.message
    for name, place in told.items():
        assert refusal.value.details[name] == place
    with pytest.raises(Malformed):
        decode_as(list[Any] | dict[str, Any] | Scalar, body, max_bytes=LIMIT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b'["12345678901234567890"]', ["12345678901234567890"]),
        (b"[0.12345678901234567890123]", [0.12345678901234568]),
        (b"12345678901234567890.5", 12345678901234567890.5),
        (b"1e-400", 0.0),
        (b"1e308", 1e308),
        (rb'["\\u0000"]', ["\\u0000"]),
        (rb'["\ud83d\ude00\u00e9"]', ["\U0001f600é"]),
        (rb'["[[[[[[[[\"[[[[[[[[\\","]]"]', ['[[[[[[[["[[[[[[[[\\', "]]"]),
        (b'{"a":1,"a":2}', {"a": 2}),
        (' "é" ', "é"),
    ],
)
def test_what_only_looks_dangerous_is_read(body: bytes | str, value: object) -> None:
    """The limits hit what they name and nothing else; the last of two equal names counts."""
    assert same(read(body), value)


def test_size_is_counted_in_bytes_and_comes_first() -> None:
    """A body beyond max_bytes is TooLarge even when it is not JSON; one of exactly that size is read."""
    assert decode_json(b'"1234"', max_bytes=6) == "1234"
    for body in (b'"12345"', b"\xff" * 7, "[" * 7):
        with pytest.raises(TooLarge) as refusal:
            decode_json(body, max_bytes=6)
        assert refusal.value.details == {"limit": 6}
    with pytest.raises(TooLarge):
        decode_json('"éé"', max_bytes=5)
    with pytest.raises(Malformed):
        decode_json('"\ud800"', max_bytes=99)


def nest(levels: int) -> Any:
    value: Any = 7
    for level in range(levels):
        value = [value] if level % 2 else {"a]}": value}
    return value


@given(
    st.integers(0, 50),
    st.integers(1, 40),
    st.lists(st.sampled_from(['"', "[", "]", "\\", "{", "x"]), max_size=30),
)
@settings(max_examples=80, deadline=None)
def test_depth_is_counted_exactly_whatever_the_texts_hold(levels: int, limit: int, noise: list[str]) -> None:
    """max_depth nested levels are read and one more is not, whatever brackets and quotes stand in texts."""
    text = "".join(noise)
    body = json.dumps([text, nest(levels), *[[text]] * 40, {text: text}]).encode()
    deepest = max(levels, 1) + 1
    if deepest <= limit:
        decode_json(body, max_bytes=LIMIT, max_depth=limit)
        decode_as(list[Any], body, max_bytes=LIMIT, max_depth=limit)
    else:
        for decode in (
            lambda: decode_json(body, max_bytes=LIMIT, max_depth=limit),
            lambda: decode_as(list[Any], body, max_bytes=LIMIT, max_depth=limit),
        ):
            with pytest.raises(Malformed):
                decode()


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"":['])
@pytest.mark.parametrize("levels", [33, 999, 5000, 150_000])
def test_a_depth_bomb_is_refused_in_little_time(opening: bytes, levels: int) -> None:
    """However deep, closed or not: Malformed, no crash, no quadratic work."""
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"":[': b"]}]"}[opening]
    for body in (opening * levels, opening * levels + b"1" + closing * levels):
        for decode in (
            lambda body=body: decode_json(body, max_bytes=1 << 24),
            lambda body=body: decode_as(Any, body, max_bytes=1 << 24),
            lambda body=body: decode_as(Tree, body, max_bytes=1 << 24),
            lambda body=body: decode_as(msgspec.Raw, body, max_bytes=1 << 24),
        ):
            with pytest.raises(Malformed):
                decode()


def test_hostile_bodies_of_a_mebibyte_come_to_an_end() -> None:
    """The slow paths of the checks are linear too: what grows with the square would not be seen to end."""
    bodies = [
        b'["' + b"\\\\" * 500_000 + b'"]',
        b'["' + b"\\\\u0000" * 140_000 + b'"]',
        b'["9999999999999999999"' + b",1" * 500_000 + b"]",
        b"[" + b'"",' * 300_000 + b'""]',
        b"[" + b"[]," * 300_000 + b"[]]",
        b"[" + b'"[",' * 200_000 + b"1]",
        b"[1." + b"1" * 1_000_000 + b"]",
    ]
    for body in bodies:
        decode_json(body, max_bytes=1 << 21)
    for body in (
        b"9" * 1_000_000,
        b'["' + rb"\ud800" * 160_000 + b'"]',
        b'["' + rb"\u0000" * 160_000 + b'"]',
    ):
        with pytest.raises(Malformed):
            decode_json(body, max_bytes=1 << 21)


def test_a_typed_body_is_held_to_the_same_limits() -> None:
    """decode_as refuses wrong types with a path, and all that decode_json refuses, bounded types or not."""
    kept = decode_as(Mutation, b'{"n":1,"data":{"a":1.5,"b":null},"extra":[[[]]]}', max_bytes=LIMIT)
    assert kept == Mutation(1, {"a": 1.5, "b": None})
    for body, path in [
        (b'{"n":"1","data":{}}', "$.n"),
        (b'{"n":1.0,"data":{}}', "$.n"),
        (b'{"n":1,"data":{"a":[1]}}', "$.data[...]"),
        (b'{"n":9223372036854775808,"data":{}}', "$.n"),
        (b'{"n":1,"data":{"a":-9223372036854775809}}', "$.data[...]"),
        (b'{"n":1}', "$"),
        (b"[]", "$"),
    ]:
        with pytest.raises(Malformed) as refusal:
            decode_as(Mutation, body, max_bytes=LIMIT)
        assert refusal.value.details["path"] == path
    for kind, body in [
        (Loose, b'{"n":9223372036854775808}'),
        (Loose, b'{"n":1,"data":{"a":[9223372036854775808]}}'),
        (Loose, b'{"n":1,"data":{"a":' + b"[" * 31 + b"]" * 31 + b"}}"),
        (Loose, rb'{"n":1,"data":{"a":"\u0000"}}'),
        (Mutation, rb'{"n":1,"data":{"\u0000":1}}'),
        (Mutation, b'{"n":1,"data":{"a":"\xff"}}'),
        (dict[str, dict[str, Int64]], b'{"a":{"b":1e3}}'),
        (tuple[int, ...], b"[99999999999999999999]"),
        (list[msgspec.Raw], b"[99999999999999999999]"),
    ]:
        with pytest.raises(Malformed):
            decode_as(kind, body, max_bytes=LIMIT)
    assert decode_as(Loose, b'{"n":1,"data":{"a":' + b"[" * 30 + b"]" * 30 + b"}}", max_bytes=LIMIT).n == 1
    with pytest.raises(Malformed):
        decode_as(list[list[list[int]]], b"[[[1]]]" + b" " * 40, max_bytes=LIMIT, max_depth=2)
    with pytest.raises(TooLarge):
        decode_as(Mutation, b" " * 9, max_bytes=8)


@given(st.binary(max_size=60) | st.text('[]{}",:\\u0d8ef19-.+ \n', max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(body: bytes | str) -> None:
    """Random bytes are read or Malformed; what is read can be written again as canonical JSON."""
    for kind in (Any, Mutation, Loose, list[Scalar], dict[str, dict[str, Scalar]]):
        try:
            value = decode_as(kind, body, max_bytes=LIMIT)
        except Malformed:
            continue
        if kind is Any:
            assert same(read(canonical_json(value)), sort(value))


# canonical JSON


@given(documents, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_equal_values_have_one_canonical_text(document: dict[str, Any], random: Any) -> None:
    """The order in which names were set does not show; a second pass changes nothing."""
    names = list(document)
    random.shuffle(names)
    text = canonical_json(document)
    assert canonical_json({name: document[name] for name in names}) == text
    assert canonical_json(read(text)) == text
    assert json.loads(text) == document


def test_canonical_text_is_exact() -> None:
    """No spaces, names by code point, numbers as they are, nothing escaped without need."""
    value = {
        "b": [1, 1.0, -0.0, 1e22, 1e-7, True, None],
        "a": {"é": "\u2028\x7f/", "z": '"\\\n\x01', "\U0001f600": ""},
    }
    expected = '{"a":{"z":"\\"\\\\\\n\\u0001","é":"\u2028\x7f/","\U0001f600":""},'
    expected += '"b":[1,1.0,-0.0,1e22,1e-7,true,null]}'
    assert canonical_json(value) == expected
    assert canonical_json(1) != canonical_json(1.0) != canonical_json(True)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": [{"b": math.nan}]}, ["\ud800"]])
def test_what_json_cannot_say_is_not_written(value: object) -> None:
    """NaN, infinities and lone surrogates are a ValueError, never a silent null."""
    with pytest.raises(ValueError, match=r"NaN|surrogates"):
        canonical_json(value)
    with pytest.raises(TypeError):
        canonical_json({1: value})
