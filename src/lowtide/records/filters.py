"""The filter language of lists: from a text to a tree, and back.

::

    filter     = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | "(" filter ")" | comparison
    comparison = name ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) literal
               | name [ "not" ] "in" "(" literal { "," literal } ")"
    literal    = "text" | 'text' | number | "true" | "false" | "null"

A name is a field's. In a text, ``\\\\``, ``\\"``, ``\\'``, ``\\n`` and ``\\t`` stand for themselves. What a
comparison means is in ``conditions.py``. Parsing is one pass, linear in the text, and bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Literal, NoReturn

import msgspec

from lowtide.kernel.errors import BadFilter

MAX_FILTER_LENGTH = 4_000
"""Characters of a filter."""

MAX_FILTER_DEPTH = 20
"""Parentheses and negations within each other."""

MAX_FILTER_TERMS = 50
"""Comparisons in a filter."""

MAX_FILTER_VALUES = 200
"""Literals in a filter, those of its ``in`` lists among them."""

Scalar = str | int | float | bool | None
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "~"]


class Compare(msgspec.Struct, frozen=True):
    """``name op value``; ``at``: where it stands in the text."""

    name: str
    op: Operator
    value: Scalar
    at: int = 0


class In(msgspec.Struct, frozen=True):
    """``name in (values)``"""

    name: str
    values: tuple[Scalar, ...]
    at: int = 0


class Not(msgspec.Struct, frozen=True):
    item: Node


class And(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]


Node = Compare | In | Not | And | Or

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,3})?(?![A-Za-z0-9_.]))
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<sign><=|>=|!=|[=<>~(),])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}
_OPERATORS: dict[str, Operator] = {"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "~": "~"}


def parse(text: str) -> Node:
    """The tree of ``text``. Raises ``BadFilter``, with ``position`` (characters from the start), for what
    is not a filter or beyond a limit, and nothing else."""
    if len(text) > MAX_FILTER_LENGTH:
        raise BadFilter(f"A filter has at most {MAX_FILTER_LENGTH} characters.", position=MAX_FILTER_LENGTH)
    return _Parser(text).whole()


def replaced(node: Node, names: Collection[str], values: Mapping[Scalar, Scalar]) -> Node:
    """``node`` where each of ``values`` that a field in ``names`` is compared with is what it stands for."""
    match node:
        case Compare(name, op, value) if name in names and op in ("=", "!="):
            return msgspec.structs.replace(node, value=values.get(value, value))
        case In(name) if name in names:
            return msgspec.structs.replace(node, values=tuple(values.get(one, one) for one in node.values))
        case Not():
            return Not(replaced(node.item, names, values))
        case And():
            return And(tuple(replaced(item, names, values) for item in node.items))
        case Or():
            return Or(tuple(replaced(item, names, values) for item in node.items))
        case _:
            return node


def show(node: Node) -> str:
    """A text whose tree is ``node``, with no more parentheses than it needs."""
    match node:
        case Compare():
            return f"{node.name} {node.op} {_shown(node.value)}"
        case In():
            return f"{node.name} in ({', '.join(map(_shown, node.values))})"
        case Not(In() as listed):
            return show(listed).replace(" in (", " not in (", 1)
        case Not():
            return f"not {_within(node.item, (And, Or))}"
        case And():
            return " and ".join(_within(item, (And, Or)) for item in node.items)
        case Or():
            return " or ".join(_within(item, (Or,)) for item in node.items)


def _within(item: Node, looser: tuple[type, ...]) -> str:
    return f"({show(item)})" if isinstance(item, looser) else show(item)


def _shown(value: Scalar) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


class _Parser:
    """Recursive descent over one text; ``_kind``, ``_word`` and ``_at`` are the token that comes next."""

    def __init__(self, text: str):
        self._text = text
        self._next = 0
        self._depth = 0
        self._terms = 0
        self._values = 0
        self._kind = ""
        self._word = ""
        self._at = 0
        self._advance()

    def whole(self) -> Node:
        node = self._or()
        if self._kind != "end":
            self._refuse("expected 'and', 'or' or the end")
        return node

    def _or(self) -> Node:
        items = [self._and()]
        while self._take("or"):
            items.append(self._and())
        return items[0] if len(items) == 1 else Or(tuple(items))

    def _and(self) -> Node:
        items = [self._not()]
        while self._take("and"):
            items.append(self._not())
        return items[0] if len(items) == 1 else And(tuple(items))

    def _not(self) -> Node:
        if self._take("not"):
            self._deeper()
            node: Node = Not(self._not())
        elif self._take("("):
            self._deeper()
            node = self._or()
            self._expect(")")
        else:
            return self._comparison()
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        if self._kind != "name" or self._word in ("and", "or", "in"):
            self._refuse("expected a field's name")
        self._terms += 1
        if self._terms > MAX_FILTER_TERMS:
            self._refuse(f"more than {MAX_FILTER_TERMS} comparisons")
        name, at = self._word, self._at
        self._advance()
        if self._take("not"):
            self._expect("in")
            return Not(self._in(name, at))
        if self._take("in"):
            return self._in(name, at)
        op = _OPERATORS.get(self._word) if self._kind == "sign" else None
        if op is None:
            self._refuse("expected =, !=, <, <=, >, >=, ~, 'in' or 'not in'")
        self._advance()
        return Compare(name, op, self._literal(), at)

    def _in(self, name: str, at: int) -> Node:
        self._expect("(")
        values = [self._literal()]
        while self._take(","):
            values.append(self._literal())
        self._expect(")")
        return In(name, tuple(values), at)

    def _literal(self) -> Scalar:
        self._values += 1
        if self._values > MAX_FILTER_VALUES:
            self._refuse(f"more than {MAX_FILTER_VALUES} values")
        value: Scalar
        if self._kind == "text":
            value = self._unescaped()
        elif self._kind == "number":
            value = self._number()
        elif self._kind == "name" and self._word in _WORDS:
            value = _WORDS[self._word]
        else:
            self._refuse('expected a value: "text", a number, true, false or null')
        self._advance()
        return value

    def _unescaped(self) -> str:
        def one(found: re.Match[str]) -> str:
            if found[1] not in _ESCAPED:
                self._refuse("a text has the escapes \\\\, \\\", \\', \\n and \\t")
            return _ESCAPED[found[1]]

        value = _ESCAPE.sub(one, self._word[1:-1]) if "\\" in self._word else self._word[1:-1]
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            self._refuse("a text has no NUL and no half of a surrogate pair")
        return value

    def _number(self) -> int | float:
        if self._word.lstrip("-").isdecimal():
            whole = int(self._word)
            if not -(2**63) <= whole < 2**63:
                self._refuse("an integer has 64 bits")
            return whole
        number = float(self._word)
        if not math.isfinite(number):
            self._refuse("a number beyond what a double holds")
        return number

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_FILTER_DEPTH:
            self._refuse(f"nested deeper than {MAX_FILTER_DEPTH} levels")

    def _take(self, word: str) -> bool:
        if self._word == word and self._kind != "text":
            self._advance()
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self._refuse(f"expected {word!r}")

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._next)
        if found is None:
            self._at = self._next + len(self._text[self._next :]) - len(self._text[self._next :].lstrip())
            self._refuse("this is no part of a filter")
        self._kind = found.lastgroup or ""
        self._word = found[self._kind]
        self._at = found.start(self._kind)
        self._next = found.end()

    def _refuse(self, why: str) -> NoReturn:
        raise BadFilter(f"{why[0].upper()}{why[1:]}, at character {self._at + 1}.", position=self._at)
