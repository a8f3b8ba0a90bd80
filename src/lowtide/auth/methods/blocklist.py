"""Passwords that others would try first: common, leaked, or made by a pattern. Asked offline.

NIST SP 800-63B-4 section 3.1.1.2 wants new passwords compared with what was found in breaches, dictionary
words, repetitions, sequences and words of the context, and wants no rules of composition. So a long
password may be of one kind of character; it may not be one that a guesser reaches early.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Literal

from lowtide.kernel.errors import SetupError
from lowtide.kernel.files import folder_of

Weakness = Literal["common", "leaked", "predictable"]

MARK = b"lowtide passwords 1\n"
"""The first bytes of a file of leaked passwords; sorted digests follow."""
DIGEST = 6
"""Bytes of the SHA-1 that are kept: of a thousand million leaked passwords, one good one in 280,000 is taken
for leaked."""
PARTS = 6
"""What a password must be made of at least, when a word or a run counts as little as it is worth."""
WORD = 4
"""Characters of the shortest word that is looked for."""
LONGEST = 20
ROWS = (
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789",
    "1234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp",
    "1q2w3e4r5t6y7u8i9o0p",
)
_NEXT = frozenset(pair for row in ROWS for text in (row, row[::-1]) for pair in pairwise(text))


class Blocklist:
    """What a new password is compared with. ``weakness`` blocks: call it in a thread.

    The common ones come with Lowtide: 49,000 (5 MB of memory from the first call on). The leaked ones are the
    operator's file, which is searched where it lies.
    """

    def __init__(self, leaked: Path | None = None):
        """``leaked``: a file that ``lowtide passwords build`` made. Raises ``SetupError``."""
        self._common: frozenset[str] | None = None
        self._leaked = None if leaked is None else Leaked(leaked)

    def weakness(self, password: str, context: Iterable[str] = ()) -> Weakness | None:
        """Why ``password`` should not be one; None for a good one.

        ``context``: what belongs to the app or the user, such as its name and their address; each as a whole,
        and by its words.
        """
        if self._common is None:
            packed = (folder_of("lowtide.auth.methods") / "common.txt.gz").read_bytes()
            self._common = frozenset(gzip.decompress(packed).decode().split("\n"))
        folded = password.casefold()
        if folded in self._common:
            return "common"
        if self._leaked is not None and self._leaked.has(password):
            return "leaked"
        near = {word for text in context for word in (text.casefold(), *_words(text.casefold()))}
        if _parts(_unit(folded), self._common, near) < PARTS:
            return "predictable"
        return None


class Leaked:
    """A sorted file of digests, searched in place: about thirty reads of memory for each question."""

    def __init__(self, file: Path):
        """Raises ``SetupError`` for a file that is not there or not of this kind."""
        try:
            with file.open("rb") as opened:
                self._data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SetupError(
                f"The file of leaked passwords {file} cannot be read: {error}.",
                hint="The setting 'leaked_passwords' names what 'lowtide passwords build' wrote.",
            ) from error
        if self._data[: len(MARK)] != MARK or (len(self._data) - len(MARK)) % DIGEST:
            raise SetupError(
                f"{file} is not a file of leaked passwords, or not a whole one.",
                hint="Make it with 'lowtide passwords build'.",
            )
        self._count = (len(self._data) - len(MARK)) // DIGEST

    def __len__(self) -> int:
        return self._count

    def has(self, password: str) -> bool:
        """Is ``password`` one of them?"""
        wanted = leaked_digest(password)
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            at = len(MARK) + middle * DIGEST
            found = self._data[at : at + DIGEST]
            if found == wanted:
                return True
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return False


def leaked_digest(password: str) -> bytes:
    """What stands for ``password`` in the file: dumps are published as SHA-1."""
    return hashlib.sha1(password.encode(), usedforsecurity=False).digest()[:DIGEST]


def _words(text: str) -> Iterable[str]:
    word = ""
    for letter in text + " ":
        if letter.isalnum():
            word += letter
        else:
            if len(word) >= WORD:
                yield word
            word = ""


def _unit(text: str) -> str:
    """What ``text`` is a repetition of, the last one cut or not; itself if of nothing."""
    for length in range(1, len(text) // 2 + 1):
        if text.startswith(text[length:]):
            return text[:length]
    return text


def _parts(text: str, common: frozenset[str], near: set[str]) -> int:
    """Of how many parts a guesser would put ``text`` together.

    A run (``aaaa``, ``4567``, ``asdf``) and a word of the context is one, a common password two, any other
    character one.
    """
    longest = max(LONGEST, *map(len, near)) if near else LONGEST
    found, at = 0, 0
    while at < len(text):
        run = at + 1
        while run < len(text) and (text[run] == text[run - 1] or (text[run - 1], text[run]) in _NEXT):
            run += 1
        # A run is a pattern from three characters on: two neighbours are chance.
        length, cost = (run - at, 1) if run - at >= 3 else (1, 1)
        for size in range(min(longest, len(text) - at), WORD - 1, -1):
            word = text[at : at + size]
            if size > length and (word in near or word in common):
                length, cost = size, 1 if word in near else 2
                break
        found += cost
        at += length
    return found
