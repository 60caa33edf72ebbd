"""Compact JWS (RFC 7515 section 7.1): strict parsing, before the JOSE library sees the token.

Parsing checks the form only. No part of a token may be trusted before its signature was verified.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from ._errors import AssertionRefused
from ._json import StrictJsonError, parse_object

# The length of the longest assertion that is accepted, in bytes. Equal in all packages.
MAX_ASSERTION: Final = 8192

TYP: Final = "countersign+jwt"

# `Ed25519` is the name of RFC 9864 for the same algorithm, always with an Ed25519 key.
ALGORITHMS: Final = frozenset({"ES256", "EdDSA", "Ed25519"})

# Header members that contain a key or the address of one. Keys come only from the configured
# source (RFC 8725 section 3.10).
_EMBEDDED_KEYS = frozenset({"jwk", "jku", "x5u", "x5c"})

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """The members of a JOSE header that choose the key. Not verified."""

    algorithm: str
    key_id: str


@dataclass(frozen=True, slots=True, repr=False)
class CompactJws:
    """A token whose form is that of an assertion. Not verified."""

    header: Header
    signing_input: bytes
    payload: bytes
    signature: bytes


def base64url_encode(octets: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def base64url_decode(text: str) -> bytes:
    """Decode canonical base64url without padding: each byte string has exactly one encoding.

    Raise ValueError for everything else, unlike the standard library, which ignores foreign
    characters and trailing bits.
    """
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise ValueError("not base64url without padding")
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url without padding") from None
    if base64url_encode(octets) != text:
        raise ValueError("not canonical base64url")
    return octets


def parse(token: str) -> CompactJws:
    """Check all rules about the form, the header and the key reference.

    Raise AssertionRefused with the first rule that the token breaks.
    """
    # Characters are bytes only in ASCII, and all parts are base64url.
    if not token.isascii():
        raise _malformed("not a compact JWS: three base64url parts separated by dots are expected")
    if len(token) > MAX_ASSERTION:
        raise _malformed(f"longer than {MAX_ASSERTION} bytes")
    parts = token.split(".")
    if len(parts) != 3 or not parts[0] or not parts[2]:
        raise _malformed("not a compact JWS: three base64url parts separated by dots are expected")
    members = _header_members(_decode(parts[0], "header"))
    payload = _decode(parts[1], "payload")
    signature = _decode(parts[2], "signature")
    signing_input = f"{parts[0]}.{parts[1]}".encode("ascii")
    return CompactJws(_header(members), signing_input, payload, signature)


def _decode(text: str, part: str) -> bytes:
    try:
        return base64url_decode(text)
    except ValueError:
        raise _malformed(f"{part} is not canonical base64url without padding") from None


def _header_members(text: bytes) -> dict[str, object]:
    try:
        members: dict[str, object] = parse_object(text, "header")
    except StrictJsonError as error:
        raise _malformed(str(error)) from None
    # RFC 7515 section 4.1.11: a token with an unsupported extension must be refused. None is
    # supported. `b64` (RFC 7797) changes what is signed, even without `crit`.
    if "crit" in members or "b64" in members:
        raise _malformed("the token demands an extension by `crit` or `b64`; none is supported")
    if not isinstance(members.get("alg"), str):
        raise _malformed("member `alg` is missing or malformed")
    if members["alg"] not in ALGORITHMS:
        raise AssertionRefused("assertion-algorithm")
    for name in ("kid", "typ"):
        if name in members and not isinstance(members[name], str):
            raise _malformed(f"member `{name}` is missing or malformed")
    return members


def _header(members: dict[str, object]) -> Header:
    if members.get("typ") != TYP:
        raise AssertionRefused("assertion-type")
    if not _EMBEDDED_KEYS.isdisjoint(members):
        raise AssertionRefused("assertion-embedded-key")
    if not members.get("kid"):
        raise AssertionRefused("assertion-key-id-missing")
    return Header(algorithm=str(members["alg"]), key_id=str(members["kid"]))


def _malformed(problem: str) -> AssertionRefused:
    return AssertionRefused("assertion-malformed", f"the assertion is malformed: {problem}")
