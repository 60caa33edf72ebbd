"""The claims of an assertion, typed, and the caller that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ._errors import AssertionRefused
from ._request import equal, sha256

Revocation = Literal["checked", "soft", "off"]


@dataclass(frozen=True, slots=True)
class SubjectAlternativeNames:
    """The names of the certificate by type, as in the certificate."""

    uri: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    email: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The caller's leaf certificate. Times are seconds since 1970.

    If `sans_truncated` is set, names are missing in `sans`. If `issuer_truncated` is set, the
    gateway left out `issuer`, which is then empty. Regard what is missing as unknown, not as
    absent: refuse the request, or look up the certificate by its thumbprint.
    """

    x5t_s256: str
    serial: str
    issuer: str
    not_before: int
    not_after: int
    sans: SubjectAlternativeNames
    anchor: str
    sans_truncated: bool = False
    issuer_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Authentication:
    """How and when the caller was authenticated.

    `methods` has any of `certificate`, `token` and `api-key`. `x5t_s256` is the certificate's
    thumbprint in compact assertions, and None in others: use `Caller.certificate_thumbprint`.
    """

    methods: tuple[str, ...]
    at: int
    resumed: bool
    trust_domain: str | None = None
    revocation: Revocation | None = None
    crl_this_update: int | None = None
    x5t_s256: str | None = None


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """Selected claims of a token that came with the request: on whose behalf the caller acts."""

    iss: str
    sub: str | None = None
    client_id: str | None = None
    scope: str | None = None
    jti: str | None = None
    ath: str | None = None
    # Further claims that the route passes on.
    other: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, repr=False)
class Caller:
    """The caller of one request, as the gateway confirmed it.

    `sub` is the identity: a SPIFFE ID or other URI verbatim, `dns:NAME`, `mailto:ADDRESS`,
    `ip:ADDRESS`, `upn:NAME@REALM`; for callers without certificate `api-key:NAME` or
    `client:ISSUER-NAME/CLIENT_ID`. It is never the subject of a token: that is `token.sub`.

    `certificate` is None for callers without certificate, and for callers with one if the gateway's
    route has `assertion = "compact"`. Do not conclude from None that the caller has no certificate:
    `has_certificate` says whether it has.

    `jti`, `htm` and `htu` are all present or all None. `claims` has all claims, including those
    that this version does not know. `txn` is for logs only: it authenticates nothing.
    """

    iss: str
    aud: str
    sub: str
    iat: int
    exp: int
    authn: Authentication
    certificate: ClientCertificate | None
    token: TokenClaims | None
    jti: str | None
    txn: str | None
    htm: str | None
    htu: str | None
    htq: str | None
    htb: str | None
    claims: Mapping[str, Any] = field(hash=False)

    @property
    def trust_domain(self) -> str | None:
        """The trust domain that verified the certificate. None without a certificate."""
        return self.authn.trust_domain

    @property
    def has_certificate(self) -> bool:
        """Whether the caller was authenticated with a certificate, according to `authn.methods`.

        It is also True for compact assertions, in which `certificate` is None.
        """
        return "certificate" in self.authn.methods

    @property
    def certificate_thumbprint(self) -> str | None:
        """The base64url SHA-256 of the certificate's DER. None without a certificate.

        Compact assertions have it in `authn`, others in `client_cert`.
        """
        return self.authn.x5t_s256 if self.certificate is None else self.certificate.x5t_s256

    @property
    def is_request_bound(self) -> bool:
        """Whether the assertion is for one request, and not for any request of the caller."""
        return self.htm is not None and self.htu is not None and self.jti is not None

    def matches_body(self, body: bytes) -> bool | None:
        """Compare a body with `htb`. None if the assertion is not bound to a body."""
        return None if self.htb is None else equal(self.htb, sha256(body))

    def __repr__(self) -> str:
        """Show no claims, because they may contain personal data."""
        return f"Caller(sub={self.sub!r})"


def caller_from(claims: dict[str, Any]) -> Caller:
    """Check the types of all known claims.

    Unknown claims are ignored, because later versions may add some. A `null` is an absent claim.
    """
    root = _Members(claims)
    certificate = root.optional_members("client_cert")
    token = root.optional_members("token")
    return Caller(
        iss=root.text("iss"),
        aud=root.text("aud"),
        sub=root.text("sub"),
        iat=root.integer("iat"),
        exp=root.integer("exp"),
        authn=_authentication(root.members("authn")),
        certificate=None if certificate is None else _certificate(certificate),
        token=None if token is None else _token(token),
        jti=root.optional_text("jti"),
        txn=root.optional_text("txn"),
        htm=root.optional_text("htm"),
        htu=root.optional_text("htu"),
        htq=root.optional_text("htq"),
        htb=root.optional_text("htb"),
        claims=claims,
    )


class _Members:
    """Typed access to the members of a JSON object. Every failure is `assertion-claims`."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        if not isinstance(value, str):
            raise _malformed()
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.raw.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        value = self.raw.get(name)
        # bool is a subclass of int.
        if type(value) is not int or value < 0:
            raise _malformed()
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.raw.get(name) is None else self.integer(name)

    def boolean(self, name: str) -> bool:
        value = self.raw.get(name)
        if not isinstance(value, bool):
            raise _malformed()
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean whose absence means False. `null` is malformed."""
        return name in self.raw and self.boolean(name)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _malformed()
        return tuple(value)

    def members(self, name: str) -> _Members:
        value = self.raw.get(name)
        if not isinstance(value, dict):
            raise _malformed()
        return _Members(value)

    def optional_members(self, name: str) -> _Members | None:
        return None if self.raw.get(name) is None else self.members(name)


def _authentication(members: _Members) -> Authentication:
    revocation = members.optional_text("revocation")
    if revocation not in (None, "checked", "soft", "off"):
        raise _malformed()
    return Authentication(
        methods=members.texts("methods"),
        at=members.integer("at"),
        resumed=members.boolean("resumed"),
        trust_domain=members.optional_text("trust_domain"),
        revocation=cast("Revocation | None", revocation),
        crl_this_update=members.optional_integer("crl_this_update"),
        x5t_s256=members.optional_text("x5t#S256"),
    )


def _certificate(members: _Members) -> ClientCertificate:
    sans = members.members("sans")
    names = {kind: sans.texts(kind) for kind in ("uri", "dns", "email", "ip") if kind in sans.raw}
    return ClientCertificate(
        x5t_s256=members.text("x5t#S256"),
        serial=members.text("serial"),
        issuer=members.text("issuer"),
        not_before=members.integer("not_before"),
        not_after=members.integer("not_after"),
        sans=SubjectAlternativeNames(**names),
        anchor=members.text("anchor"),
        sans_truncated=members.flag("sans_truncated"),
        issuer_truncated=members.flag("issuer_truncated"),
    )


_TOKEN_MEMBERS = ("iss", "sub", "client_id", "scope", "jti", "ath")


def _token(members: _Members) -> TokenClaims:
    return TokenClaims(
        iss=members.text("iss"),
        sub=members.optional_text("sub"),
        client_id=members.optional_text("client_id"),
        scope=members.optional_text("scope"),
        jti=members.optional_text("jti"),
        ath=members.optional_text("ath"),
        other={name: value for name, value in members.raw.items() if name not in _TOKEN_MEMBERS},
    )


def _malformed() -> AssertionRefused:
    return AssertionRefused("assertion-claims")
