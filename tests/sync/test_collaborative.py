"""Collaborative texts: documents of real devices merge to one text, hostile ones are a ValueError."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from lowtide.sync import collaborative
from lowtide.sync.collaborative import MAX_BYTES, MAX_PIECES, merge_documents

# Written by Yjs 13.6 itself: two devices that knew the same "Hello 😀 world", and their merge.
YJS_ONE = "AQUBAAEBBHRleHQFhAEECyDwn5iAIHdvcmxkxAEEAQUCSGnGAQQBDgRib2xkBHRydWXGAQ8BBQRib2xkBG51bGwBAQEABQ=="
YJS_TWO = (
    "AgOA0KzzDgDEAQUBBgRiaWcgRQEADXsiaW1hZ2UiOiJ4In0oAQRtZXRhAWsBdQN9AX53AsOpAgEABAEEdGV4dAZIZWxsbyCEAQUK"
    "8J+YgCB3b3JsZAA="
)
YJS_BOTH = (
    "AgOA0KzzDgDEAQUBBgRiaWcgRQEADXsiaW1hZ2UiOiJ4In0oAQRtZXRhAWsBdQN9AX53AsOpBgEAAQEEdGV4dAWEAQQBIIQBBQrw"
    "n5iAIHdvcmxkxAEEAQUCSGnGAQQBDgRib2xkBHRydWXGAQ8BBQRib2xkBG51bGwBAQEABQ=="
)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Device:
    """A phone with one document."""

    def __init__(self, client: int, value: str | None = None):
        self.doc: Doc[Any] = Doc(client_id=client)
        if value is not None:
            self.doc.apply_update(base64.b64decode(value))
        self.text = self.doc.get("text", type=Text)

    @property
    def value(self) -> str:
        return encoded(self.doc.get_update())

    def write(self, at: float, gone: int, fresh: str) -> None:
        """At a part of the text between 0 and 1: delete some characters, insert others."""
        place = round(at * len(str(self.text)))
        gone = min(gone, len(str(self.text)) - place)
        if gone:
            del self.text[place : place + gone]
        self.text.insert(place, fresh)


def text_of(document: str) -> str:
    return str(Device(99, document).text)


edits = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(0, 4), st.sampled_from(["x", "yo ", "abc"])),
    max_size=25,
)


@given(
    edits,
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_any_order_of_merges_gives_the_same_bytes(
    written: list[tuple[int, float, int, str]], meetings: list[tuple[int, int]], random: object
) -> None:
    """Commutative, associative and idempotent, to the byte, for what devices write; every text converges."""
    first = Device(1)
    first.text += "hello world"
    devices = [Device(10 + n, first.value) for n in range(4)]
    for device, at, gone, fresh in written:
        devices[device].write(at, gone, fresh)
        for one, other in meetings[:1]:
            devices[one].doc.apply_update(devices[other].doc.get_update())
        meetings = meetings[1:]
    values = [device.value for device in devices]
    results = set()
    for order in itertools.islice(itertools.permutations(values), 0, 24, 5):
        merged = None
        for value in order:
            merged = merge_documents(value, merged)
        assert merged is not None
        assert merge_documents(merged, None) == merged
        for value in order:
            assert merge_documents(value, merged) == merged
            assert merge_documents(merged, value) == merged
        results.add(merged)
    assert len(results) == 1
    final = Device(99)
    for value in values:
        final.doc.apply_update(base64.b64decode(value))
    assert text_of(results.pop()) == str(final.text)


def test_documents_of_yjs_itself_are_read_and_merged() -> None:
    """What the JavaScript library writes merges to what the JavaScript library makes of it."""
    merged = merge_documents(YJS_ONE, YJS_TWO)
    assert text_of(merged) == "Hi big \U0001f600 world"
    assert merged == merge_documents(YJS_TWO, YJS_ONE) == merge_documents(YJS_BOTH, None)
    assert merge_documents(YJS_ONE, None) == YJS_ONE


def test_both_insertions_and_deletions_survive() -> None:
    """Concurrent edits of one place are both kept; what is deleted stays deleted when it is sent again."""
    first = Device(1)
    first.text += "milk eggs"
    one, two = Device(2, first.value), Device(3, first.value)
    one.text.insert(4, " bread")
    two.text.insert(4, " ham")
    del two.text[0:4]
    merged = merge_documents(two.value, merge_documents(one.value, first.value))
    assert sorted(text_of(merged).split()) == ["bread", "eggs", "ham"]
    assert merge_documents(first.value, merged) == merged


def test_every_shared_type_passes_unharmed() -> None:
    """Maps, arrays, XML, marks, embedded values and nested types come out as they went in."""
    doc: Doc[Any] = Doc(client_id=2**50)
    text = doc.get("text", type=Text)
    text += "hello wörld \U0001f600"
    text.format(0, 3, {"bold": True})
    text.insert_embed(2, {"a": [1, {"b": None}]})
    values = doc.get("map", type=Map)
    for key, value in {"f": 1.5, "i": -7, "big": 2**60, "raw": b"\0\xff", "t": True, "n": None}.items():
        values[key] = value
    values["nested"] = Map({"list": Array([1, "two", {"three": [3.5, False]}])})
    fragment = doc.get("xml", type=XmlFragment)
    element = fragment.children.append(XmlElement("p", {"class": "x"}))
    element.children.append(XmlText("hi"))
    value = encoded(doc.get_update())
    merged = merge_documents(value, None)
    assert merge_documents(merged, value) == merged
    copy: Doc[Any] = Doc()
    copy.apply_update(base64.b64decode(merged))
    assert copy.get("map", type=Map).to_py() == values.to_py()
    assert str(copy.get("xml", type=XmlFragment)) == str(fragment)
    assert copy.get("text", type=Text).diff() == text.diff()


# hostile documents, built by the published encoding


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return number(len(raw)) + raw


ROOT = b"\1" + text("text")


def update(*pieces: bytes, client: int = 1, clock: int = 0, deleted: bytes = b"\0") -> bytes:
    return number(1) + number(len(pieces)) + number(client) + number(clock) + b"".join(pieces) + deleted


def item(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + ROOT + content


def after(clock: int, content: str, client: int = 1) -> bytes:
    return b"\x84" + number(client) + number(clock) + text(content)


HELLO = item(4, text("hello"))


def side(client: int, *pieces: bytes) -> bytes:
    """One client's part of an update."""
    return number(len(pieces)) + number(client) + b"\0" + b"".join(pieces)


def chained(client: int, count: int) -> bytes:
    """A text in ``count`` pieces, as if something stood between them."""
    return side(client, item(4, text("ab")), *(after(2 * n - 1, "ab", client) for n in range(1, count)))


def scattered(client: int, into: int, count: int) -> bytes:
    """Pieces behind each of those, from the last to the first, each claiming to have been put at the end."""
    return side(client, *(after(2 * n - 1, "x", into) for n in range(count, 0, -1)))


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a byte": b"\0",
    "text": b"hello, this is plain text",
    "cut": update(HELLO)[:-3],
    "more behind": update(HELLO) + b"\0",
    "endless number": b"\xff" * 190_000,
    "many clients": number(2**40) + b"\0",
    "many pieces": b"\1" + number(2**28) + b"\1\0",
    "client beyond 53 bits": update(HELLO, client=2**53),
    "client twice": number(2) + update(HELLO)[1:-1] * 2 + b"\0",
    "client without pieces": update(),
    "only a change": update(after(4, " x"), clock=5),
    "a gap": update(HELLO, b"\x0a" + number(5), HELLO),
    "follows nothing": update(after(0, "x")),
    "follows a stranger": update(after(7, "x", client=2)),
    "inside itself": update(b"\x07\0" + number(1) + number(0) + b"\0"),
    "inside a text": update(HELLO, b"\4\0" + number(1) + number(0) + text("x")),
    "empty text": update(item(4, b"\0")),
    "empty deletion": update(item(1, b"\0")),
    "empty garbage": update(b"\0\0"),
    "endless garbage": update(b"\0" + number(2**32 - 1)),
    "clock overflow": update(b"\0" + number(2**31 - 2), b"\0" + number(2**31 - 2)),
    "broken UTF-8": update(item(4, text(b"\xc3\x28"))),
    "surrogate": update(item(4, text(b"\xed\xa0\x80"))),
    "no JSON": update(item(5, text("nope"))),
    "mark without JSON": update(item(6, text("bold") + text("{"))),
    "deep JSON": update(item(5, text("[" * 60_000))),
    "deep lists": update(item(8, b"\1" + b"\x75\1" * 90_000 + b"\x7e")),
    "deep objects": update(item(8, b"\1" + b"\x76\1\1a" * 45_000 + b"\x7e")),
    "33 levels": update(item(8, b"\1" + b"\x75\1" * 33 + b"\x7e")),
    "endless list": update(item(8, b"\1\x75" + number(2**40))),
    "endless values": update(item(8, number(2**31))),
    "unknown value": update(item(8, b"\1\x10")),
    "unknown kind": update(item(31, b"")),
    "unknown type": update(item(7, number(99))),
    "weak link": update(item(7, number(7) + bytes(8))),
    "move": update(item(11, bytes(8))),
    "subdocument": update(item(9, text("guid") + b"\x76\0")),
    "deletes what is not there": update(HELLO, deleted=b"\1\1\1" + number(4) + number(2)),
    "deletes a stranger": update(HELLO, deleted=b"\1\2\1\0\1"),
    "deletes out of order": update(HELLO, deleted=b"\1\1\2\3\1\0\1"),
    "deletes everything": update(HELLO, deleted=b"\1\1\1\0" + number(2**32 - 1)),
    "too many pieces": number(2) + side(1, *[b"\0\1"] * 9_000) + side(2, *[b"\0\1"] * 9_000) + b"\0",
    "rivals for a key": update(*[b"\x24" + ROOT + text("key") + text("v")] * 9_000),
    "rivals for a place": number(4_000)
    + b"".join(b"\1" + number(n) + b"\0" + item(4, text("a")) for n in range(4_000))
    + b"\0",
    "rivals everywhere": number(2) + chained(1, 3_000) + scattered(2, 1, 3_000) + b"\0",
    "rivals in a circle": number(2)
    + side(1, b"\x44" + number(2) + number(0) + text("a"))
    + side(2, b"\x44" + number(1) + number(0) + text("b"))
    + b"\0",
    "rivals at the beginning": number(3_001)
    + b"".join(side(n + 2, b"\x44\1\0" + text("a")) for n in range(3_000))
    + side(1, HELLO)
    + b"\0",
    "splits from behind": update(item(4, text("é" * 9_000)), *(after(8_999 - n, "b") for n in range(9_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_soon(name: str) -> None:
    """ValueError with a reason, in well under a quarter of a second, on either side; never a crash."""
    value = encoded(HOSTILE[name])
    good = encoded(update(HELLO))
    calls: list[Callable[[], object]] = [
        lambda: merge_documents(value, None),
        lambda: merge_documents(value, good),
        lambda: merge_documents(good, value),
    ]
    for call in calls:
        took = []
        for _ in range(3):  # the best of three: other programs of the machine are not the document's fault
            started = time.thread_time()
            with pytest.raises(ValueError, match=r"\w+ \w+"):
                call()
            took.append(time.thread_time() - started)
            if took[-1] < 0.25:
                break
        assert min(took) < 0.25


def test_a_document_that_stays_within_the_bounds_is_taken() -> None:
    """The table's neighbours: 32 levels, many pieces in order, and a long text with its insertions."""
    for content in (
        update(item(8, b"\1" + b"\x75\1" * 32 + b"\x7e")),
        update(*(item(4, text("a")) if n == 0 else after(n - 1, "b") for n in range(5_000))),
        update(item(4, text("é" * 9_000)), *(after(8_999 - n, "b") for n in range(1_000))),
        update(HELLO, deleted=b"\1\1\2\0\1\3\2"),
        number(400) + b"".join(b"\1" + number(n) + b"\0" + item(4, text("a")) for n in range(400)) + b"\0",
    ):
        merged = merge_documents(encoded(content), None)
        assert merge_documents(encoded(content), merged) == merged


@pytest.mark.parametrize(
    "value", ["Dear diary", "", "====", "AAA=\n", "AA AA", "ÄÄÄÄ", "\0", "A" * (MAX_BYTES + 4)]
)
def test_what_is_no_base64_of_a_document_is_refused(value: str) -> None:
    """Plain text in a collaborative field is a ValueError that says so, and so is too much of it."""
    with pytest.raises(ValueError, match=r"Yjs document|larger"):
        merge_documents(value, None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("more behind", "something behind its end"),
        ("only a change", "only a part"),
        ("follows a stranger", "changes that it does not hold"),
        ("subdocument", "subdocument"),
        ("deep lists", "deeper than 32"),
        ("clock overflow", "too long"),
        ("too many pieces", f"more than {MAX_PIECES}"),
        ("client beyond 53 bits", "out of range"),
        ("endless number", "out of range"),
    ],
)
def test_a_refusal_says_what_is_wrong(name: str, reason: str) -> None:
    """The reason is one that a developer can act on."""
    with pytest.raises(ValueError, match=reason):
        merge_documents(encoded(HOSTILE[name]), None)


class PanicException(BaseException):
    """What yrs' panics look like from Python."""


def test_a_panic_is_a_value_error_and_an_interrupt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what yrs says of the document is turned into a refusal."""
    for raised, seen in ((PanicException(), ValueError), (RuntimeError("no"), ValueError)):
        monkeypatch.setattr(collaborative, "_applied", lambda updates, raised=raised: throw(raised))
        with pytest.raises(seen):
            merge_documents(YJS_ONE, None)
    monkeypatch.setattr(collaborative, "_applied", lambda updates: throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        merge_documents(YJS_ONE, None)


def throw(error: BaseException) -> None:
    raise error


def test_two_documents_that_hurt_only_together_are_refused() -> None:
    """Each text is whole in one document and in pieces in the other, where much was put between them."""
    size = 1_000
    whole = [side(client, item(4, text("ab" * size))) for client in (1, 2)]
    one = number(3) + chained(1, size) + whole[1] + scattered(3, 1, size) + b"\0"
    two = number(3) + whole[0] + chained(2, size) + scattered(4, 2, size) + b"\0"
    with pytest.raises(ValueError, match="at the same place"):
        merge_documents(encoded(one), encoded(two))
    merge_documents(encoded(number(2) + chained(1, 100) + scattered(3, 1, 100) + b"\0"), None)


def test_a_text_that_is_only_written_in_front_is_no_rivalry() -> None:
    """Thousands of devices that knew of each other may write at one place."""
    first = number(3_001) + side(1, HELLO)
    first += b"".join(side(n + 2, b"\x44" + number(n + 1) + b"\0" + text("a")) for n in range(3_000)) + b"\0"
    behind = number(3_001) + side(1, HELLO)
    behind += side(2, b"\x84\1\4" + text("z"))
    behind += (
        b"".join(side(n + 3, b"\xc4\1\4" + number(n + 2) + b"\0" + text("a")) for n in range(2_999)) + b"\0"
    )
    assert text_of(merge_documents(encoded(first), None)) == "a" * 3_000 + "hello"
    assert text_of(merge_documents(encoded(behind), None)) == "hello" + "a" * 2_999 + "z"


def test_two_documents_that_are_too_large_together_are_refused() -> None:
    """The bounds hold for the result too, so that what is stored can be merged again."""
    one, two = (encoded(update(item(4, text("x" * 110_000)), client=client)) for client in (1, 2))
    merge_documents(one, None)
    merge_documents(two, None)
    with pytest.raises(ValueError, match="larger"):
        merge_documents(one, two)


@given(st.binary(max_size=40), st.data())
@settings(max_examples=250, deadline=None)
def test_no_bytes_raise_anything_but_a_value_error(noise: bytes, data: st.DataObject) -> None:
    """Noise, and real documents with bytes changed, are merged or refused; a merge can be merged again."""
    good = bytearray(base64.b64decode(data.draw(st.sampled_from([YJS_ONE, YJS_TWO, YJS_BOTH]))))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    for content in (noise, bytes(good)):
        try:
            merged = merge_documents(encoded(content), YJS_ONE)
        except ValueError:
            continue
        assert merge_documents(encoded(content), merged) == merged
        text_of(merged)
