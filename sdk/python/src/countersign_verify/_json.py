"""Strict JSON: what two parsers could read differently is refused.

The standard parser takes the last of duplicate members, and accepts `NaN`, lone surrogates and
numbers without bounds. None of that passes here. The limits are those of the Rust package, so that
both accept the same texts.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_MAX_DEPTH = 127
# A string without end reaches to the end of the text: a match that could fail would be tried again
# from each quote, in quadratic time.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z|\\\Z)', re.DOTALL)
_LOWEST_INTEGER = -(2**63)
_HIGHEST_INTEGER = 2**64 - 1
# Longer ones are beyond any double. This also bounds the time of the conversion.
_MAX_INTEGER_CHARACTERS = 310


class StrictJsonError(ValueError):
    """The text is not strict JSON, or not a JSON object. The message never contains the text."""


def parse_object(text: bytes, part: str) -> dict[str, Any]:
    """Return the members of a JSON object. `part` names the text in the error.

    Integers beyond 64 bits become floats, like fractions: they are numbers, but no integers.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise StrictJsonError(f"{part} is not UTF-8") from None
    _limit_depth(decoded, part)
    try:
        value = _DECODER.decode(decoded)
    except StrictJsonError as error:
        raise StrictJsonError(f"{part} {error}") from None
    except (ValueError, RecursionError):
        raise StrictJsonError(f"{part} is not valid JSON") from None
    if not isinstance(value, dict):
        raise StrictJsonError(f"{part} is not a JSON object")
    # A lone surrogate can only be written as an escape, because the text is UTF-8.
    if "\\u" in decoded:
        _refuse_lone_surrogates(value, part)
    return value


def _limit_depth(text: str, part: str) -> None:
    # Most texts have fewer brackets than the limit. Only others are scanned.
    if text.count("{") + text.count("[") <= _MAX_DEPTH:
        return
    depth = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            if depth > _MAX_DEPTH:
                raise StrictJsonError(f"{part} is nested too deeply")
        elif character in "}]":
            depth -= 1


def _refuse_lone_surrogates(value: object, part: str) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise StrictJsonError(f"{part} has a text that is not Unicode") from None
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_lone_surrogates(name, part)
            _refuse_lone_surrogates(member, part)
    elif isinstance(value, list):
        for item in value:
            _refuse_lone_surrogates(item, part)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Names are compared after their escapes are resolved: "a" is the same as "\u0061".
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictJsonError("has a duplicate member")
    return members


def _constant(_name: str) -> NoReturn:
    raise StrictJsonError("has a number that JSON does not have")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise StrictJsonError("has a number that is too large")
    return number


def _integer(text: str) -> int | float:
    if text == "-0":
        return -0.0
    if len(text) > _MAX_INTEGER_CHARACTERS:
        raise StrictJsonError("has a number that is too large")
    number = int(text)
    return number if _LOWEST_INTEGER <= number <= _HIGHEST_INTEGER else _float(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_constant=_constant,
    parse_float=_float,
    parse_int=_integer,
)
