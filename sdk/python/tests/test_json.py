"""Strict JSON and strict tokens."""

from __future__ import annotations

import pytest

from countersign_verify import AssertionRefused
from countersign_verify._json import _STRING, StrictJsonError, parse_object
from countersign_verify._jws import base64url_decode, base64url_encode, parse


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"{}"',
        b"{",
        b"{}{}",
        b"{} x",
        b"{}\x00",
        b"\xef\xbb\xbf{}",
        b'{"a":1,}',
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":[{"y":{"a":1,"a":2}}]}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":1.}',
        b'{"a":0x10}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":"\n"}',
        b'{"a":"\\x"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":["\\ud800x"]}',
        b'{"a":' + b"[" * 127 + b"]" * 127 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 2000,
        "{}".encode("utf-16"),
        b"{} // comment",
    ],
)
def test_other_texts_are_refused(text: bytes) -> None:
    with pytest.raises(StrictJsonError):
        parse_object(text, "text")


def test_strict_json_is_read() -> None:
    assert parse_object(b' {"a":[1,-1,"\\ud83d\\ude00"],"b":{"a":null}}\n', "text") == {
        "a": [1, -1, "\U0001f600"],
        "b": {"a": None},
    }
    deepest = b'{"a":' + b"[" * 126 + b"]" * 126 + b"}"
    assert parse_object(deepest, "text")
    brackets = b'{"a":"' + b"[{" * 500 + b'\\""}'
    assert parse_object(brackets, "text")


@pytest.mark.parametrize("end", ["", "\\", "\n", '"', '\\"'])
def test_each_string_is_scanned_once(end: str) -> None:
    # An attempt that fails would be repeated from each of the quotes.
    text = '{"' + '\\"' * 1000 + end
    assert [match.span() for match in _STRING.finditer(text)] == [(1, len(text))]
    with pytest.raises(StrictJsonError):
        parse_object(("[" * 200 + text).encode(), "text")


def test_only_integers_are_integers() -> None:
    members = parse_object(b'{"a":1.0,"b":1e3,"c":-0,"d":18446744073709551616,"e":7}', "text")
    assert [type(member) for member in members.values()] == [float, float, float, float, int]
    assert parse_object(b'{"a":18446744073709551615}', "text") == {"a": 2**64 - 1}


@pytest.mark.parametrize(
    "text", ["=", "A", "AA==", "AB", "AAB", "A A", "AA\n", "+/+/", "\u0660AAA"]
)
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url_decode(text)


def test_base64url_round_trip() -> None:
    for octets in (b"", b"\xff", b"\xfb\xff", bytes(range(256))):
        assert base64url_decode(base64url_encode(octets)) == octets


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b", "a.b.c.d", ".e30.AA", "e30.e30.", "\u00e9.e30.AA", "a" * 4097]
)
def test_other_tokens_are_malformed(token: str) -> None:
    with pytest.raises(AssertionRefused, match="assertion-malformed"):
        parse(token)
