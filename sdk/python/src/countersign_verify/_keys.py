"""The gateway's public keys (RFC 7517) and the verification of a signature with one of them.

The library is PyJWT, and not joserfc: most services have it already, and its algorithms can be
used without its parser.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm

from ._errors import AssertionRefused
from ._json import StrictJsonError, parse_object
from ._jws import CompactJws, base64url_decode, base64url_encode

MAX_KEY_SET_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 128

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# The `alg` values that a key may have, for each supported type and curve.
_ALGORITHMS: Final = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
}


# Only the algorithms of assertions exist here: nothing that a token or a key says can select
# another one. PyJWT's own parser is not used, so that there is only one reading of a token.
_JOSE: Final[dict[str, Algorithm]] = {
    "EC": ECAlgorithm(ECAlgorithm.SHA256),
    "OKP": OKPAlgorithm(),
}


class KeySetError(ValueError):
    """The text is not a JWK set. The message never contains the text."""


@dataclass(frozen=True, slots=True)
class Jwk:
    """One public key that can verify assertions."""

    kty: str
    curve: str
    material: tuple[str, ...]
    # The `kid`, or the thumbprint if the key has none.
    key_id: str
    has_key_id: bool
    has_algorithm: bool
    # None if the point is not on the curve. No signature verifies then.
    public_key: PublicKey | None = field(compare=False, repr=False)

    @property
    def algorithms(self) -> frozenset[str]:
        """The `alg` values of tokens that this key may verify."""
        return _ALGORITHMS[self.kty, self.curve]

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Return whether the signature is that of this key."""
        if self.public_key is None:
            return False
        try:
            return bool(_JOSE[self.kty].verify(signing_input, self.public_key, signature))
        except (ValueError, jwt.PyJWTError):
            return False


class KeySet:
    """The usable keys of a JWK set."""

    __slots__ = ("_by_id", "keys")

    def __init__(self, keys: tuple[Jwk, ...]) -> None:
        self.keys = keys
        by_id: dict[str, list[Jwk]] = {}
        for key in keys:
            by_id.setdefault(key.key_id, []).append(key)
        self._by_id = by_id

    @classmethod
    def parse(cls, text: bytes) -> KeySet:
        """Parse a JWK set.

        Keys that cannot verify assertions are ignored (RFC 7517 section 5), and so are private,
        symmetric and malformed ones. Raise KeySetError if the text is no JWK set.
        """
        if len(text) > MAX_KEY_SET_BYTES:
            raise KeySetError("longer than 1 MiB")
        try:
            items = parse_object(text, "key set").get("keys")
        except StrictJsonError as error:
            raise KeySetError(str(error)) from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise KeySetError("member `keys` is missing or malformed")
        if len(items) > MAX_KEYS:
            raise KeySetError(f"the key set has more than {MAX_KEYS} keys")
        keys: list[Jwk] = []
        for item in items:
            key = _key(item)
            # A key that is listed twice counts once.
            if key is not None and key not in keys:
                keys.append(key)
        return cls(tuple(keys))

    @classmethod
    def from_value(cls, value: KeySet | Mapping[str, Any] | str | bytes) -> KeySet:
        """Take a key set as it is, or parse its JSON text or its members."""
        if isinstance(value, KeySet):
            return value
        if isinstance(value, bytes):
            return cls.parse(value)
        if isinstance(value, str):
            return cls.parse(value.encode("utf-8", "surrogatepass"))
        try:
            return cls.parse(json.dumps(dict(value)).encode("utf-8"))
        except (TypeError, ValueError) as error:
            raise KeySetError(str(error)) from None

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, key_id: str) -> bool:
        """Return whether a key has this identifier."""
        return key_id in self._by_id

    def verify(self, jws: CompactJws) -> bytes:
        """Verify the signature with the key that the header names. Return the payload.

        Raise AssertionRefused if there is no such key, if it is for another algorithm, or if the
        signature is wrong.
        """
        named = self._by_id.get(jws.header.key_id)
        if not named:
            raise AssertionRefused("assertion-unknown-key")
        fitting = [key for key in named if jws.header.algorithm in key.algorithms]
        if not fitting:
            raise AssertionRefused("assertion-algorithm")
        if len(fitting) > 1:
            raise AssertionRefused("assertion-unknown-key")
        # RFC 7518 section 3.4 and RFC 8037 section 3.1: both kinds have 64 bytes.
        if len(jws.signature) != 64 or not fitting[0].verify(jws.signing_input, jws.signature):
            raise AssertionRefused("assertion-signature")
        return jws.payload


def thumbprint(kty: str, curve: str, material: tuple[str, ...]) -> str:
    """Return the SHA-256 thumbprint of a key (RFC 7638)."""
    members = {"crv": curve, "kty": kty, **dict(zip(("x", "y"), material, strict=False))}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url_encode(hashlib.sha256(text.encode("ascii")).digest())


def _key(members: dict[str, Any]) -> Jwk | None:
    """Return the key, or None if it cannot verify assertions."""
    kty, curve = members.get("kty"), members.get("crv")
    if not isinstance(kty, str) or not isinstance(curve, str):
        return None
    algorithms = _ALGORITHMS.get((kty, curve))
    if algorithms is None or not _PRIVATE_MEMBERS.isdisjoint(members):
        return None
    if not _is_for_verification(members):
        return None
    if "alg" in members and not (_are_texts(members["alg"]) and members["alg"] in algorithms):
        return None
    material = _material(members, ("x", "y") if kty == "EC" else ("x",))
    key_id = members.get("kid", "")
    if material is None or not isinstance(key_id, str):
        return None
    return Jwk(
        kty=kty,
        curve=curve,
        material=material,
        key_id=key_id if "kid" in members else thumbprint(kty, curve, material),
        has_key_id="kid" in members,
        has_algorithm="alg" in members,
        public_key=_public_key(kty, curve, material),
    )


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_for_verification(members: dict[str, Any]) -> bool:
    """Check `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3)."""
    if members.get("use", "sig") != "sig":
        return False
    if "key_ops" not in members:
        return True
    operations = members["key_ops"]
    return isinstance(operations, list) and _are_texts(*operations) and "verify" in operations


def _material(members: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the coordinates. Each must have the full length (RFC 7518 section 6.2.1)."""
    material = tuple(members.get(name) for name in names)
    try:
        if all(isinstance(text, str) and len(base64url_decode(text)) == 32 for text in material):
            return tuple(str(text) for text in material)
    except ValueError:
        pass
    return None


def _public_key(kty: str, curve: str, material: tuple[str, ...]) -> PublicKey | None:
    members = {"kty": kty, "crv": curve, **dict(zip(("x", "y"), material, strict=False))}
    try:
        if kty == "EC":
            key = ECAlgorithm.from_jwk(members)
            return key if isinstance(key, EllipticCurvePublicKey) else None
        okp = OKPAlgorithm.from_jwk(members)
        return okp if isinstance(okp, Ed25519PublicKey) else None
    except (ValueError, jwt.PyJWTError):
        return None
