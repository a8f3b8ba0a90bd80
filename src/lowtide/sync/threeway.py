"""Three-way merges of structured values: *base*, *mine* and *theirs* in, one value out.

All are pure: the same three values give the same result on every machine. The laws of a three-way
merge hold: merge(b, b, t) = t, merge(b, m, b) = m, merge(b, x, x) = x (of a set, but for its order).
None asks who is right: what one side added stays, what one side took away goes.

Work is bounded: 256 KiB of whatever a hostile device sends cost about 60 ms at most.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.sync.diff import Edit, edits, increasing, is_letter

MAX_ITEMS = 15_000
"""Elements of the three lists together, beyond which lists are not merged."""

_SEARCH = 4_000_000
_ABSENT = object()
_encode = msgspec.json.Encoder(order="sorted").encode


def merge_set(base: list[Any], mine: list[Any], theirs: list[Any]) -> list[Any]:
    """theirs + (mine - base) - (base - mine), as JSON arrays whose order means nothing.

    Elements are equal when their canonical JSON is: 1, 1.0 and true are three. The result has
    theirs' elements in their order, then mine's additions in theirs; duplicates collapse.

    What three values decide, by where an element is (base, mine, theirs): kept are the additions
    (-, m, -), (-, -, t), (-, m, t) and what nobody removed, (b, m, t). Removed are (b, -, t),
    (b, m, -) and (b, -, -). So an element that mine added is kept whatever theirs did with it since:
    an add wins over a concurrent remove. What three values cannot show is a side that removed an
    element and added it again: the element looks untouched there, and the other side's removal
    stands.
    """
    before = set(_keys(base))
    kept = _at(_keys(mine), mine)
    merged: dict[Any, Any] = {}
    for key, item in zip(_keys(theirs), theirs, strict=True):
        if key in kept or key not in before:
            merged.setdefault(key, item)
    for key, item in kept.items():
        if key not in before:
            merged.setdefault(key, item)
    return list(merged.values())


def merge_list(
    base: list[Any], mine: list[Any], theirs: list[Any], mine_is_later: bool
) -> tuple[list[Any], list[Any]]:
    """The merged list, and what was lost on the way: empty when nothing was.

    Elements have identity: an object by its ``id`` (a text or number), any other by its canonical
    JSON; the second of equals is the second in every list. Then

    - what either side inserted is kept behind the neighbour that it was put behind, theirs before
      mine at one place; what either side deleted is gone;
    - what one side moved is where that side put it; what both moved, where the later one did;
    - an object that both sides changed merges field by field, and of a field that both
      changed the later side's value stays (``mine_is_later``).

    ``lost`` holds each value that was dropped against its side's wish: the fields of one object that
    lost, with its ``id``, null for a removed field; or a whole object that one side changed and the
    other deleted.

    Up to about 50 ms. Beyond ``MAX_ITEMS`` the later side's list stays whole, the other is lost.
    """
    if _same(mine, theirs) or _same(mine, base):
        return theirs, []
    if _same(theirs, base):
        return mine, []
    if len(base) + len(mine) + len(theirs) > MAX_ITEMS:
        return (mine, [theirs]) if mine_is_later else (theirs, [mine])
    b, m, t = _identities(base), _identities(mine), _identities(theirs)
    b_items, m_items, t_items = _at(b, base), _at(m, mine), _at(t, theirs)
    lost: list[Any] = []
    deleted = set()
    for key, item in b_items.items():
        if key in m_items and key in t_items:
            continue
        deleted.add(key)
        survivor = m_items.get(key, t_items.get(key, _ABSENT))
        if survivor is not _ABSENT and not _same(survivor, item):
            lost.append(survivor)
    m_moved, t_moved = _moved(b, m), _moved(b, t)
    merged = []
    for key in _order(m, t, m_moved, t_moved, deleted, mine_is_later):
        item, other = m_items.get(key, _ABSENT), t_items.get(key, _ABSENT)
        if other is _ABSENT or (item is not _ABSENT and _same(item, other)):
            merged.append(item)
        elif item is _ABSENT:
            merged.append(other)
        else:
            merged.append(_merge_object(b_items.get(key, {}), item, other, mine_is_later, lost))
    return merged, lost


def _at(keys: list[Any], items: list[Any]) -> dict[Any, Any]:
    return dict(zip(keys, items, strict=True))


def _keys(items: list[Any]) -> list[Any]:
    # Texts and integers stand for themselves; neither equals the bytes of another element's JSON.
    return [item if (kind := type(item)) is str or kind is int else _encode(item) for item in items]


def _same(one: Any, other: Any) -> bool:
    return one is other or _encode(one) == _encode(other)


def _identities(items: list[Any]) -> list[Any]:
    seen: dict[Any, int] = {}
    keys = []
    for item in items:
        if type(item) is str:
            key: Any = item
        elif type(item) is dict and type(name := item.get("id")) in (str, int, float):
            key = b"id" + _encode(name)
        else:
            key = _encode(item)
        if occurrence := seen.get(key, 0):
            keys.append((key, occurrence))
        else:
            keys.append(key)
        seen[key] = occurrence + 1
    return keys


def _moved(base: list[Any], side: list[Any]) -> set[Any]:
    """The least elements of ``side`` whose move explains its order of what it shares with ``base``."""
    at = {key: position for position, key in enumerate(base)}
    shared = [key for key in side if key in at]
    still = increasing([at[key] for key in shared])
    return set(shared) - {shared[index] for index in still} if len(still) < len(shared) else set()


def _order(
    m: list[Any], t: list[Any], m_moved: set[Any], t_moved: set[Any], deleted: set[Any], mine_is_later: bool
) -> list[Any]:
    """The surviving elements in their merged order.

    Anchors are the elements on whose order both sides agree. Every other element has one side that
    places it: into the gap behind the anchor that precedes it there.
    """
    at = {key: position for position, key in enumerate(m)}
    common = [key for key in t if key in at and key not in deleted and (key in m_moved) == (key in t_moved)]
    anchors = {common[index] for index in increasing([at[key] for key in common])}
    in_theirs = set(t)

    def placed_by_mine(key: Any) -> bool:
        if key not in in_theirs:
            return True
        if key not in at:
            return False
        if (key in m_moved) == (key in t_moved):
            return mine_is_later
        return key in m_moved

    gaps: dict[Any, list[Any]] = {}
    for side, is_mine in ((t, False), (m, True)):
        gap = gaps.setdefault(_ABSENT, [])
        for key in side:
            if key in anchors:
                gap = gaps.setdefault(key, [key])
            elif key not in deleted and placed_by_mine(key) == is_mine:
                gap.append(key)
    return [key for gap in gaps.values() for key in gap]


def _merge_object(base: Any, mine: Any, theirs: Any, mine_is_later: bool, lost: list[Any]) -> dict[str, Any]:
    """Two objects with one id, field by field; what loses is added to ``lost``."""
    merged: dict[str, Any] = {}
    dropped: dict[str, Any] = {}
    for name in theirs | mine:
        was, my, their = (side.get(name, _ABSENT) for side in (base, mine, theirs))
        if _equal(my, their) or _equal(my, was):
            value = their
        elif _equal(their, was):
            value = my
        else:
            value, loser = (my, their) if mine_is_later else (their, my)
            dropped[name] = None if loser is _ABSENT else loser
        if value is not _ABSENT:
            merged[name] = value
    if dropped:
        lost.append({"id": theirs["id"], **dropped})
    return merged


def _equal(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return _same(one, other)


def merge_text(base: str, mine: str, theirs: str) -> str:
    """Both edits of a text.

    Edits of different words are both applied. Where both sides changed the same words, what each wrote
    is kept whole, theirs first, set apart by a space or line break where the two would run
    together. What either side deleted goes. No word is ever made of two sides' letters, and no
    character is parted from its marks.

    What both sides wrote at one place is there once: an equal edit, and also one whose words the other
    side's edit of that place holds already. So ``merge(b, m, merge(b, m, t))`` is ``merge(b, m, t)``
    as long as the words around an edit tell where it was. Where they do not (base "no no", mine "no
    no no"), or where the whole neighbourhood was rewritten, a repeat may add mine's words again.

    At most as long as mine and theirs together, plus a character for each edit: the caller holds the
    result to the field's length. At most about 60 ms for 256 KiB of hostile text: beyond ``diff.WORK``
    the rest of a side's change is one edit, so that at worst the result is theirs followed by mine.
    """
    if mine in (theirs, base):
        return theirs
    if theirs == base:
        return mine
    their_edits = edits(base, theirs)
    known = set(their_edits)
    my_edits = [edit for edit in edits(base, mine) if edit not in known]
    my_edits, their_edits = _unrepeated(base, my_edits, their_edits)
    both = [(start, end, 0, text) for start, end, text in their_edits]
    both += [(start, end, 1, text) for start, end, text in my_edits]
    both.sort(key=lambda edit: edit[:3])
    out: list[str] = []
    at = index = 0
    apart = False
    while index < len(both):
        start, end = both[index][:2]
        texts: tuple[list[str], list[str]] = ([], [])
        last = [start, start]
        apart = _append(out, base[at:start], apart)
        # Edits that overlap, or insert at the same place: a conflict.
        while index < len(both) and (both[index][0] < end or both[index][:2] == (start, start)):
            edit_start, edit_end, side, text = both[index]
            if text and texts[side]:
                texts[side].append(_gap(base[last[side] : edit_start]))
            if text:
                last[side] = edit_end
            texts[side].append(text)
            end = max(end, edit_end)
            index += 1
        conflict = bool(texts[0] and texts[1])
        for text in texts[0]:
            apart = _append(out, text, apart)
        lines = any("\n" in text for text in texts[0] + texts[1]) or _is_lines(base, start, end)
        apart = apart or (conflict and lines and any(texts[0]))
        for text in texts[1]:
            apart = _append(out, text, apart)
        apart = apart or (conflict and base[end - 1 : end] == "\n")
        at = end
    _append(out, base[at:], apart)
    return "".join(out)


def _gap(between: str) -> str:
    """What parts two passages of one side when the other side deleted what was between them."""
    return "\n" if "\n" in between else " " if " " in between else ""


def _is_lines(text: str, start: int, end: int) -> bool:
    """Are these whole lines, of several?"""
    opens = start == 0 or text[start - 1] == "\n"
    return opens and (end == len(text) or "\n" in text[end - 1 : end + 1]) and "\n" in text


def _append(out: list[str], text: str, apart: bool) -> bool:
    """Add ``text``; two words that meet get a space, and texts that shall be ``apart`` a line break.

    Returns whether what comes next shall still be apart.
    """
    if not text:
        return apart
    if out and apart and not text[0].isspace() and not out[-1][-1].isspace():
        out.append("\n")
    elif out and is_letter(text) and is_letter(out[-1], len(out[-1]) - 1):
        out.append(" ")
    out.append(text)
    return False


def _unrepeated(base: str, mine: list[Edit], theirs: list[Edit]) -> tuple[list[Edit], list[Edit]]:
    """Both sides' edits without the texts that the other side put at the same place too."""
    my_texts, their_texts = [text for _, _, text in mine], [text for _, _, text in theirs]
    budget = _SEARCH
    first = 0
    for index, my_edit in enumerate(mine):
        for other in range(first, len(theirs)):
            their_edit = theirs[other]
            if not _beside(base, their_edit[1], my_edit[0]):
                first = other + 1
                continue
            if not _beside(base, my_edit[1], their_edit[0]):
                break
            budget -= len(my_edit[2]) + len(their_edit[2])
            if budget < 0:
                break
            if _repeats(my_edit, their_edit):
                my_texts[index] = ""
                break
            if _repeats(their_edit, my_edit):
                their_texts[other] = ""
    return (
        [(start, end, text) for (start, end, _), text in zip(mine, my_texts, strict=True)],
        [(start, end, text) for (start, end, _), text in zip(theirs, their_texts, strict=True)],
    )


def _beside(base: str, end: int, start: int) -> bool:
    """Is there at most a little space between what ends and what starts there?"""
    return start <= end or (start - end <= 8 and base[end:start].isspace())


def _repeats(edit: Edit, other: Edit) -> bool:
    """Did ``other`` write all that ``edit`` wrote, at its place or, for an insertion, beside it?"""
    inside = other[0] <= edit[0] and edit[1] <= other[1]
    return (inside or edit[0] == edit[1]) and _holds(other[2], edit[2].strip() or edit[2])


def _holds(text: str, part: str) -> bool:
    """Is ``part`` in ``text``, from the beginning of a word to the end of one?"""
    at = text.find(part)
    for _ in range(100):
        if at < 0 or not part:
            return False
        end = at + len(part)
        opens = at == 0 or not (is_letter(part) and is_letter(text, at - 1))
        if opens and not (is_letter(part, len(part) - 1) and is_letter(text, end)):
            return True
        at = text.find(part, at + 1)
    return False
