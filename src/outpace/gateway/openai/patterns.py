"""Regular expressions inside schemas: refused when matching or compiling one could explode. One pass, no regex.

What explodes is a repetition of something that may itself be cut into repetitions in many ways, such as `(a+)+`.
A repeated group with a fixed character in it, such as `(\\d+,)+`, can be cut in one way only.
"""

import msgspec

from outpace.values.errors import InvalidInput

MAX_PATTERN = 256
MAX_REPEATS = 2_000
# Deeper groups have no use in 256 characters.
MAX_GROUPS = 16

_QUANTIFIERS = ("*", "+", "?", "{")
_CLASS_ESCAPES = "dDwWsSpP"


class _Part(msgspec.Struct):
    """A group that is open, or an atom or group that a quantifier may follow."""

    # The alternative being read repeats something without end; it has a character that must be there.
    is_endless: bool = False
    has_mark: bool = False
    # Some alternative is endless, one of them without a mark.
    any_endless: bool = False
    is_loose: bool = False
    # Largest product of counted repetitions on one way inwards.
    repeats: int = 1

    def end_alternative(self) -> None:
        self.any_endless = self.any_endless or self.is_endless
        self.is_loose = self.is_loose or (self.is_endless and not self.has_mark)
        self.is_endless = self.has_mark = False


def check_pattern(pattern: str, name: str) -> None:
    """Raise InvalidInput for a pattern that is too long, repeats a repetition, or repeats too often."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidInput(name, f"a pattern is longer than {MAX_PATTERN} characters; shorten it")
    groups, last, at = [_Part()], _Part(), 0
    while at < len(pattern):
        char = pattern[at]
        if char == "(":
            groups.append(_Part())
            if len(groups) > MAX_GROUPS:
                raise InvalidInput(name, f"a pattern has more than {MAX_GROUPS} nested groups")
            at = _past_opening(pattern, at)
        elif char == ")" and len(groups) > 1:
            last = groups.pop()
            last.end_alternative()
            at += 1
            if pattern[at : at + 1] not in _QUANTIFIERS:
                _add(groups[-1], last, is_certain=True)
        elif char == "|":
            groups[-1].end_alternative()
            at += 1
        elif (quantifier := _quantifier(pattern, at)) is not None:
            at, least, most = quantifier
            last = _repeated(last, most, name)
            _add(groups[-1], last, is_certain=least > 0)
        else:
            end = _past_atom(pattern, at)
            last = _Part()
            if _is_fixed(pattern[at:end]) and pattern[end : end + 1] not in _QUANTIFIERS:
                groups[-1].has_mark = True
            at = end


def _repeated(part: _Part, most: int | None, name: str) -> _Part:
    if part.is_loose and (most is None or most > 1):
        raise InvalidInput(name, "a pattern repeats a repetition, which can take for ever; write it flat")
    repeats = part.repeats * max(most or 1, 1)
    if repeats > MAX_REPEATS:
        raise InvalidInput(name, f"a pattern repeats more than {MAX_REPEATS} times; use fewer")
    is_endless = part.any_endless or most is None
    # An endless repetition is loose even when what it repeats is not: `(a+,)+` may be cut anywhere by `(…)+`.
    return _Part(any_endless=is_endless, is_loose=part.is_loose or most is None, repeats=repeats)


def _add(group: _Part, part: _Part, *, is_certain: bool) -> None:
    group.is_endless = group.is_endless or part.any_endless
    if is_certain and part.any_endless and not part.is_loose:
        group.has_mark = True
    group.repeats = max(group.repeats, part.repeats)


def _quantifier(pattern: str, at: int) -> tuple[int, int, int | None] | None:
    """End, least and most (None: no end) of the quantifier at a place; None when there is none."""
    bounds: tuple[int, int, int | None] | None = None
    if pattern[at] in "*+?":
        bounds = at + 1, int(pattern[at] == "+"), 1 if pattern[at] == "?" else None
    elif pattern[at] == "{":
        bounds = _counted(pattern, at)
    if bounds is None:
        return None
    end, least, most = bounds
    # A lazy or possessive mark belongs to the quantifier.
    return (end + 1 if pattern[end : end + 1] in ("?", "+") else end), least, most


def _counted(pattern: str, at: int) -> tuple[int, int, int | None] | None:
    end = pattern.find("}", at)
    low, comma, high = pattern[at + 1 : end].partition(",")
    if end < 0 or not (low or high) or not all(_is_count(count or "0") for count in (low, high)):
        return None
    return end + 1, int(low or "0"), None if comma and not high else int(high or low)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _past_opening(pattern: str, at: int) -> int:
    """Behind `(`, `(?:`, `(?=`, `(?<!`, `(?<name>` and the like, whose signs are no text."""
    at += 1
    if pattern[at : at + 1] != "?":
        return at
    at += 1
    while at < len(pattern) and pattern[at] not in ":=!>()":
        at += 1
    return at + 1 if pattern[at : at + 1] in (":", "=", "!", ">") else at


def _past_atom(pattern: str, at: int) -> int:
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] != "[":
        return at + 1
    # In a class, `]` counts as text in the first place.
    at += 2 if pattern[at + 1 : at + 2] == "^" else 1
    at += 1 if pattern[at : at + 1] == "]" else 0
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _is_fixed(atom: str) -> bool:
    if atom.startswith("\\"):
        return atom[1:2] not in _CLASS_ESCAPES
    return atom not in (".", "^", "$") and not atom.startswith("[")
