"""Where two texts differ: by lines, then by words, in bounded time.

The unit is the word. Characters would weave two words into one that nobody wrote, lines would keep
two copies of a paragraph for two typing errors. Where a script has no spaces the unit is the character
with its marks. The classes are spelled out here, not taken from Unicode's tables, so that every
version of Python cuts the same way.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import accumulate, pairwise
from operator import lt

WORK = 30_000
"""Lines and words that one diff looks at, before it takes what remains as one edit."""

_LONGEST = 1_000
"""Letters of a word, or characters of a line, beyond which a diff does not look for their beginning."""

Edit = tuple[int, int, str]
"""base[start:end] becomes a text."""

_Change = tuple[int, int, int, int]
"""a[start:end] becomes b[start:end]."""

_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SIGN = (
    "!-&(-\\-/:-@\\[-^`{-~\xa1-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u060c\u061b\u061f\u0964\u0965"
    "\u2010-\u2018\u201a-\u2027\u2030-\u205e\u2190-\u2319\u231c-\u23e8\u23f4-\u25ff\u3001-\u3029\u3030-\u303f"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_UNSPACED = (
    "\u0e00-\u0eff\u2e80-\u2fdf\u3040-\u3098\u309b-\u312f\u3190-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003ffff"
)
_EMOJI = (
    "\u231a\u231b\u23e9-\u23f3\u2600-\u27bf\u2b00-\u2bff"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff"
)
_FLAG = "\U0001f1e6-\U0001f1ff"
_MARK = (
    "\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u200c\u200d\u20d0-\u20ff\u302a-\u302f\u3099\u309a\ufe00-\ufe0f\ufe20-\ufe2f\uff9e\uff9f"
    "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef"
)
_JOINER = "'\u2019."
_ALONE = _SPACE + _SIGN + _UNSPACED
_LETTER = f"[^{_ALONE}{_EMOJI}{_FLAG}{_JOINER}]"
_TOKEN = re.compile(
    f"{_LETTER}+(?:[{_JOINER}]{_LETTER}+)*"
    f"|[{_EMOJI}](?:[{_MARK}]*\u200d[{_EMOJI}])*[{_MARK}]*"
    f"|[{_FLAG}]{{2}}"
    f"|[{_ALONE}{_JOINER}{_FLAG}][{_MARK}]*"
)
is_letter = re.compile(_LETTER).match
"""Does a letter, digit or other part of a word stand at a position of a text?"""

_LINE = re.compile("[^\n]*\n|[^\n]+")
_is_alone = re.compile(f"[{_ALONE}]").match
_is_mark = re.compile(f"[{_MARK}]").match


def edits(base: str, other: str) -> list[Edit]:
    """What makes ``other`` of ``base``, in order, never touching: by lines, then by words within."""
    work = [WORK]
    found: list[Edit] = []
    start, b, o = _trim(base, other, lines=True)
    if b.count("\n") + o.count("\n") > WORK:
        return [(start, start + len(b), o)]
    b_lines, o_lines = _LINE.findall(b), _LINE.findall(o)
    b_at = list(accumulate(map(len, b_lines), initial=start))
    for change in _changes(b_lines, o_lines, work):
        for b0, b1, o0, o1 in _paired(change, b_at, work):
            found += _word_edits(b_at[b0], "".join(b_lines[b0:b1]), "".join(o_lines[o0:o1]), work)
    return _rewrites(base, found)


def _paired(change: _Change, at: list[int], work: list[int]) -> list[_Change]:
    """A change of many lines to as many, line by line if it is too long to be compared as one."""
    b0, b1, o0, o1 = change
    if b1 - b0 != o1 - o0 or at[b1] - at[b0] < work[0] // 2:
        return [change]
    return [(b0 + n, b0 + n + 1, o0 + n, o0 + n + 1) for n in range(b1 - b0)]


def _word_edits(offset: int, base: str, other: str, work: list[int]) -> list[Edit]:
    start, b, o = _trim(base, other, lines=False)
    start += offset
    if not b or not o or len(b) + len(o) > work[0]:
        return [(start, start + len(b), o)] if b or o else []
    b_words, o_words = _TOKEN.findall(b), _TOKEN.findall(o)
    at = list(accumulate(map(len, b_words), initial=start))
    return [(at[b0], at[b1], "".join(o_words[o0:o1])) for b0, b1, o0, o1 in _changes(b_words, o_words, work)]


def _rewrites(base: str, edits: list[Edit]) -> list[Edit]:
    """Join replacements on one line with less between them than they replace: that is a sentence written
    anew, and two of those must not be dealt out word by word."""
    joined: list[Edit] = []
    run: list[Edit] = []
    size = 0
    for edit in [*edits, (-1, -1, "")]:
        start, end, text = edit
        fresh = max(end - start, len(text)) if end > start and text else 0
        if run:
            kept = start - run[-1][1]
            if 0 <= kept <= min(size, fresh) and "\n" not in base[run[-1][1] : start]:
                size += kept + fresh
                run.append(edit)
                continue
            joined.append(_join(base, run))
        run, size = [edit], fresh
    return joined


def _join(base: str, run: list[Edit]) -> Edit:
    parts = [run[0][2]]
    for before, edit in pairwise(run):
        parts += (base[before[1] : edit[0]], edit[2])
    return run[0][0], run[-1][1], "".join(parts)


def _trim(base: str, other: str, *, lines: bool) -> tuple[int, str, str]:
    """Both without the ``lines`` or words that they share at the beginning and end; and where that begins."""
    parts = _ends_line if lines else _ends_word
    shorter = min(len(base), len(other))
    start = _shared(base, other, shorter)
    for _ in range(_LONGEST):
        if parts(base, start) and parts(other, start):
            break
        start -= 1
    else:
        start = base.rfind("\n", 0, start) + 1
    base, other = base[start:], other[start:]
    end = _shared(base[::-1], other[::-1], shorter - start)
    for _ in range(_LONGEST):
        if parts(base, len(base) - end) and parts(other, len(other) - end):
            break
        end -= 1
    else:
        end = len(base) - (base.find("\n", len(base) - end) + 1 or len(base))
    return start, base[: len(base) - end], other[: len(other) - end]


def _ends_line(text: str, at: int) -> bool:
    return at == 0 or at == len(text) or text[at - 1] == "\n"


def _ends_word(text: str, at: int) -> bool:
    """Does a word surely end at ``at``?"""
    if at == 0 or at == len(text):
        return True
    alone = _is_alone(text, at - 1) or _is_alone(text, at)
    return alone is not None and _is_mark(text, at) is None


def _shared(one: str, other: str, limit: int) -> int:
    """How many characters both begin with, up to ``limit``."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _changes(a: list[str], b: list[str], work: list[int]) -> list[_Change]:
    """Where ``a`` and ``b`` differ, by patience diff (Bram Cohen): anchored at what is rare in both.

    Unlike the shortest edit script it does not align a rewritten passage at its commas. ``work``
    pays for what is looked at; when it is spent, what remains is one change.
    """
    found = []
    waiting = [(0, len(a), 0, len(b))]
    while waiting:
        a0, a1, b0, b1 = waiting.pop()
        work[0] -= a1 - a0 + b1 - b0
        while a0 < a1 and b0 < b1 and a[a0] == b[b0]:
            a0, b0 = a0 + 1, b0 + 1
        while a0 < a1 and b0 < b1 and a[a1 - 1] == b[b1 - 1]:
            a1, b1 = a1 - 1, b1 - 1
        anchors = _anchors(a, a0, a1, b, b0, b1) if a0 < a1 and b0 < b1 and work[0] > 0 else []
        if anchors:
            for a_next, b_next in [*anchors, (a1, b1)]:
                if a0 < a_next or b0 < b_next:
                    waiting.append((a0, a_next, b0, b_next))
                a0, b0 = a_next + 1, b_next + 1
        elif a0 < a1 or b0 < b1:
            found.append((a0, a1, b0, b1))
    return sorted(found)


def _anchors(a: list[str], a0: int, a1: int, b: list[str], b0: int, b1: int) -> list[tuple[int, int]]:
    """Pairs of equal tokens, increasing in both: those that are unique in both ranges, or else those
    that are equally frequent in both."""
    in_a, in_b = _unique(a, a0, a1), _unique(b, b0, b1)
    pairs = [(at, in_b[token]) for token, at in in_a.items() if at >= 0 and in_b.get(token, -1) >= 0]
    if not pairs:
        places = _places(b, b0, b1)
        for token, at_a in _places(a, a0, a1).items():
            at_b = places.get(token, ())
            if len(at_a) == len(at_b):
                pairs += zip(at_a, at_b, strict=True)
        pairs.sort()
    return [pairs[index] for index in increasing([right for _, right in pairs])] if pairs else []


def _unique(tokens: list[str], start: int, end: int) -> dict[str, int]:
    """Where each token stands; -1 for those that stand twice."""
    found: dict[str, int] = {}
    for index in range(start, end):
        token = tokens[index]
        found[token] = -1 if token in found else index
    return found


def _places(tokens: list[str], start: int, end: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index in range(start, end):
        found.setdefault(tokens[index], []).append(index)
    return found


def increasing(numbers: list[int]) -> list[int] | range:
    """The indexes of a longest increasing subsequence of distinct ``numbers``; O(n log n)."""
    if all(map(lt, numbers, numbers[1:])):
        return range(len(numbers))
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, number in enumerate(numbers):
        length = bisect_left(tails, number)
        before.append(ends[length - 1] if length else -1)
        if length == len(tails):
            tails.append(number)
            ends.append(index)
        else:
            tails[length] = number
            ends[length] = index
    chain = []
    index = ends[-1]
    while index >= 0:
        chain.append(index)
        index = before[index]
    return chain[::-1]
