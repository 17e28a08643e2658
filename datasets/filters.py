"""Conditions that choose episodes by what is noted of them, such as `outcome=success and operator!=script`.

    condition   = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation    = "not" negation | "(" condition ")" | comparison
    comparison  = name ("=" | "!=" | "<" | "<=" | ">" | ">=") value

A name is one of `NAMES`, or one of `GROUPS` with a key behind a point: `rates.image`, `notes.light`. A value is a
number, a word, or a text in quotes, in which a backslash keeps the next character. Nothing is evaluated.

A fact that was not noted equals only the empty text "", and is neither less nor more than any number.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..specification import nearest
from .facts import OUTCOMES, EpisodeFacts

TEXTS = ("outcome", "task", "sentence", "operator", "input")
"""Names of facts that are texts."""

NUMBERS = ("episode", "steps", "seconds", "seed")
"""Names of numbers that every episode has: its index, its length in steps and in seconds, and its seed."""

NAMES = (*TEXTS, *NUMBERS)
"""Names that stand alone."""

GROUPS = ("versions", "rates", "delays", "notes")
"""Names that a key follows."""

DEEPEST = 50
"""Most parentheses and negations within one another."""

_WORD = r"[^\s()=!<>'\"\\]+"
_TOKEN = re.compile(
    rf"""\s*(?:(?P<operator><=|>=|!=|=|<|>)|(?P<bracket>[()])|(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    rf"""|(?P<word>{_WORD}))""",
    re.DOTALL,
)
_KEYWORDS = ("and", "or", "not")


@dataclass(frozen=True)
class Comparison:
    """name operator value, where the value is a text as typed."""

    name: str
    operator: str
    value: str

    def __str__(self) -> str:
        is_plain = re.fullmatch(_WORD, self.value) is not None and self.value not in _KEYWORDS
        escaped = self.value.replace("\\", "\\\\").replace("'", "\\'")
        quoted = f"'{escaped}'"
        return f"{self.name}{self.operator}{self.value if is_plain else quoted}"


@dataclass(frozen=True)
class Not:
    """The negation of a condition."""

    inner: Condition

    def __str__(self) -> str:
        return f"not ({self.inner})"


@dataclass(frozen=True)
class Both:
    """Two conditions, joined by "and" or "or"."""

    joint: str
    left: Condition
    right: Condition

    def __str__(self) -> str:
        return f"({self.left}) {self.joint} ({self.right})"


Condition: TypeAlias = "Comparison | Not | Both"
"""A parsed condition. Its text is parsed to the same condition again."""


@dataclass(frozen=True)
class Subject:
    """What conditions speak of: episodes, or something else with other names."""

    index: str
    """The name of the number of an episode or of a step, from 0."""
    example: str
    """What to write, the end of an error message."""
    check_name: Callable[[str], None]
    """Raises ValueError for a name that the subject never has."""
    check: Callable[[str, str, str], None]
    """Raises ValueError for a comparison (name, operator, value) that such a name does not have."""


def parse(text: str, key: str = "episodes", subject: Subject | None = None) -> Condition:
    """The condition that a text states.

    >>> parse("outcome=success and operator!=script")
    Both(joint='and', left=Comparison(name='outcome', operator='=', value='success'), \
right=Comparison(name='operator', operator='!=', value='script'))

    key: what gives the text, for messages. subject: None for episodes and their facts.

    Raises ValueError if it states none, or for a name that does not exist, a comparison that its fact does not have, or
    an outcome that no episode can have.
    """
    parser = _Parser(text, key, subject or EPISODES)
    condition = parser.joined("or", 0)
    if parser.tokens[-1][1]:
        raise parser.error("'and', 'or' or the end")
    return condition


class _Parser:
    """A text and the tokens that are left of it, in reverse: (kind, token, place)."""

    def __init__(self, text: str, key: str, subject: Subject) -> None:
        self.text, self.key, self.subject, place = text, key, subject, 0
        tokens = list[tuple[str, str, int]]()
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(f"{key}={text!r} cannot be read from {text[place:].strip()!r} on: {subject.example}")
            tokens.append((str(match.lastgroup), match[str(match.lastgroup)], match.start(str(match.lastgroup))))
            place = match.end()
        self.tokens = [("end", "", len(text)), *reversed(tokens)]

    def error(self, expected: str) -> ValueError:
        _, token, place = self.tokens[-1]
        where = f"{token!r} at character {place + 1}" if token else "its end"
        return ValueError(f"{self.key}={self.text!r} needs {expected} instead of {where}: {self.subject.example}")

    def joined(self, joint: str, depth: int) -> Condition:
        """Conditions joined by "or", each of conditions joined by "and"."""
        condition = self.joined("and", depth) if joint == "or" else self.negation(depth)
        while self.tokens[-1][:2] == ("word", joint):
            self.tokens.pop()
            right = self.joined("and", depth) if joint == "or" else self.negation(depth)
            condition = Both(joint, condition, right)
        return condition

    def negation(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise ValueError(
                f"{self.key}={self.text[:60]!r}... is more than {DEEPEST} deep: write it with fewer brackets"
            )
        kind, token, _ = self.tokens[-1]
        if (kind, token) == ("word", "not"):
            self.tokens.pop()
            return Not(self.negation(depth + 1))
        if (kind, token) != ("bracket", "("):
            return self.comparison()
        self.tokens.pop()
        condition = self.joined("or", depth + 1)
        if self.tokens[-1][:2] != ("bracket", ")"):
            raise self.error("')'")
        self.tokens.pop()
        return condition

    def comparison(self) -> Comparison:
        kind, name, _ = self.tokens[-1]
        if kind != "word" or name in _KEYWORDS:
            raise self.error("the name of a fact")
        if len(self.tokens) == 2 and name.isdecimal():
            first = f"{self.subject.index}<{name}"
            raise ValueError(f"{self.key} must be a condition, got {name!r}: {first} selects the first {name}")
        self.subject.check_name(name)
        self.tokens.pop()
        kind, operator, _ = self.tokens[-1]
        if kind != "operator":
            raise self.error(f"one of = != < <= > >= behind {name}")
        self.tokens.pop()
        kind, value, _ = self.tokens[-1]
        if kind not in ("word", "quoted"):
            raise self.error("a value")
        if kind == "word" and value in _KEYWORDS:
            raise self.error(f"a value ({value!r} in quotes is one)")
        self.tokens.pop()
        if kind == "quoted":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        self.subject.check(name, operator, value)
        return Comparison(name, operator, value)


def _check_name(name: str) -> None:
    group, _, key = name.partition(".")
    if group in GROUPS and not key:
        raise ValueError(f"{group} has several values, so name one as {group}.KEY, got {name!r}")
    if name not in NAMES and group not in GROUPS:
        raise ValueError(f"no fact of an episode is called {name!r}: {nearest(name, (*NAMES, *GROUPS))}")


def _check_comparison(name: str, operator: str, value: str) -> None:
    is_equality = operator in ("=", "!=")
    if (name in TEXTS or name.startswith("versions.")) and not is_equality:
        raise ValueError(f"{name} is a text, so it is compared by = or !=, got {name}{operator}{value}")
    if number_of(value) is None and (not is_equality or name in NUMBERS or name.split(".")[0] in ("rates", "delays")):
        if is_equality and value == "" and name not in NUMBERS:
            return  # whether it was noted
        raise ValueError(f"{name}{operator}{value} compares with a number: give one")
    if name == "outcome" and value not in OUTCOMES:
        raise ValueError(f"outcome is one of {', '.join(OUTCOMES)}, got {value!r}: {nearest(value, OUTCOMES)}")


EPISODES = Subject(
    "episode",
    "write conditions such as outcome=success and operator!=script",
    check_name=_check_name,
    check=_check_comparison,
)


def number_of(value: str) -> float | None:
    """The finite number that a text is, or None.

    >>> number_of("1e3"), number_of("left"), number_of("inf")
    (1000.0, None, None)
    """
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def matches(condition: Condition, row: Mapping[str, Any]) -> bool:
    """Whether a condition holds for the facts of an episode, name -> value, as `rows` yields them."""
    match condition:
        case Not(inner):
            return not matches(inner, row)
        case Both(joint, left, right):
            first = matches(left, row)
            return (first and matches(right, row)) if joint == "and" else (first or matches(right, row))
        case Comparison(name, operator, value):
            return _compare(row.get(name), operator, value, name)


def _compare(fact: Any, operator: str, value: str, name: str) -> bool:
    number, is_number = number_of(value), isinstance(fact, int | float) and not isinstance(fact, bool)
    if operator in ("=", "!="):
        is_equal = fact == number if is_number and number is not None else _text(fact) == value
        return is_equal == (operator == "=")
    if fact in (None, ""):
        return False
    if not is_number:
        raise ValueError(f"{name}{operator}{value} compares numbers, but an episode notes {_text(fact)!r}: use = or !=")
    assert number is not None  # `parse` refuses others
    return {"<": fact < number, "<=": fact <= number, ">": fact > number, ">=": fact >= number}[operator]


def _text(fact: Any) -> str:
    if fact is None:
        return ""
    return fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)


def rows(
    facts: Sequence[EpisodeFacts], lengths: Sequence[int], seeds: Sequence[int], control_dt: float
) -> Iterator[dict[str, Any]]:
    """What conditions compare, name -> value, of each episode. A note within a note has the keys of both."""
    for index, (entry, steps, seed) in enumerate(zip(facts, lengths, seeds, strict=True)):
        row: dict[str, Any] = {name: getattr(entry, name) for name in TEXTS}
        row |= {"episode": index, "steps": int(steps), "seconds": int(steps) * control_dt}
        row |= {"seed": int(seed)} if seed >= 0 else {}
        for group in GROUPS:
            row |= _flat(group, getattr(entry, group))
        yield row


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {path: item for key, inner in value.items() for path, item in _flat(f"{name}.{key}", inner).items()}


def names(condition: Condition) -> list[str]:
    """The names that a condition compares, each once."""
    match condition:
        case Not(inner):
            return names(inner)
        case Both(_, left, right):
            return list(dict.fromkeys([*names(left), *names(right)]))
        case Comparison(name):
            return [name]


def select(condition: Condition, table: Sequence[Mapping[str, Any]], place: str) -> list[int]:
    """The indices of the rows for which a condition holds. place: of the episodes, for the message.

    Raises ValueError if it holds for none, or if no episode notes one of its names.
    """
    keys = list(dict.fromkeys(key for row in table for key in row))
    for name in names(condition):
        if table and name not in (*NAMES, *keys):
            group = name.split(".")[0]
            noted = [key for key in keys if key.startswith(f"{group}.")]
            hint = nearest(name, noted) if noted else f"they note no {group} at all"
            raise ValueError(f"{place}: no episode notes {name!r}: {hint}")
    indices = [index for index, row in enumerate(table) if matches(condition, row)]
    if table and not indices:
        raise ValueError(
            f"{place}: no episode of {len(table)} fulfils episodes='{condition}' "
            f"({'; '.join(_summary(name, table) for name in names(condition))}): give a condition that some fulfil"
        )
    return indices


def _summary(name: str, table: Sequence[Mapping[str, Any]]) -> str:
    """The values of a name that are the most frequent, or the range of its numbers."""
    values = [row.get(name) for row in table]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers:
        return f"{name} lies in [{min(numbers):g}, {max(numbers):g}]"
    counts = Counter(_text(value) or "not noted" for value in values).most_common(4)
    return f"{name} is " + ", ".join(f"{value} in {count}" for value, count in counts)
