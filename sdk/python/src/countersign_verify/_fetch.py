"""Makes a GET request with limits on time and size, with verified TLS and without redirects."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ._errors import ConfigurationError, KeysUnavailable
from ._keys import MAX_KEY_SET_BYTES

# Seconds for one request, from connecting to the last byte of the body. A little less than the
# time for which requests wait, so that they get the reason.
FETCH_TIMEOUT: Final = 4.8

# Seconds for connecting to one address of the server.
_CONNECT_TIMEOUT: Final = 2.0

# How many seconds a response is fresh if it does not say so, and the range that it may set.
_DEFAULT_FRESHNESS: Final = 300
_MIN_FRESHNESS: Final = 60
_MAX_FRESHNESS: Final = 24 * 60 * 60

_SECONDS = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Response:
    """A successful response. `body` is None if the cached keys are still current."""

    body: bytes | None
    entity_tag: str | None
    fresh_for: int


class KeyServer:
    """The one address from which keys are fetched."""

    def __init__(self, url: str, ca_file: str | Path | None) -> None:
        parts = checked_url(url)
        self.url = url
        self._host = parts.hostname or ""
        self._authority = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # Plain http needs no roots, but a wrong file is an error in any case.
        context = _tls_context(ca_file)
        self._tls = context if parts.scheme == "https" else None
        self._port = parts.port or (80 if self._tls is None else 443)

    def get(self, entity_tag: str | None) -> Response:
        """Make one request. Raise KeysUnavailable if there is no good response in time."""
        deadline = _Deadline(FETCH_TIMEOUT)
        try:
            with deadline, contextlib.closing(self._connect(deadline)) as connected:
                connection = HTTPConnection(self._host)
                # An existing socket keeps the connection from making one of its own.
                connection.sock = connected
                with contextlib.closing(connection):
                    response = self._request(connection, entity_tag)
        except (KeysUnavailable, OSError, HTTPException, ValueError) as error:
            # ValueError: the socket was closed while it was used.
            if isinstance(error, KeysUnavailable) and not deadline.has_passed:
                raise
            raise deadline.problem() from None
        # The end of the connection looks like the end of the response.
        if deadline.has_passed:
            raise deadline.problem()
        return response

    def _connect(self, deadline: _Deadline) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), timeout=_CONNECT_TIMEOUT)
        deadline.watch(plain)
        plain.settimeout(FETCH_TIMEOUT)
        if self._tls is None:
            return plain
        try:
            wrapped = self._tls.wrap_socket(
                plain, server_hostname=self._host, do_handshake_on_connect=False
            )
        except BaseException:
            plain.close()
            raise
        deadline.watch(wrapped)
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _request(self, connection: HTTPConnection, entity_tag: str | None) -> Response:
        headers = {
            "Host": self._authority,
            "Accept": "application/jwk-set+json, application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if entity_tag is not None:
            headers["If-None-Match"] = entity_tag
        connection.request("GET", self._target, headers=headers)
        with connection.getresponse() as response:
            fresh_for = freshness(response.headers)
            if response.status == 304 and entity_tag is not None:
                return Response(None, entity_tag, fresh_for)
            # Redirects are errors too, because keys come only from the configured address.
            if response.status != 200:
                raise KeysUnavailable(f"the key server answered with status {response.status}")
            body = response.read(MAX_KEY_SET_BYTES + 1)
            if len(body) > MAX_KEY_SET_BYTES:
                raise KeysUnavailable("the answer is longer than 1 MiB")
            if response.length:
                raise KeysUnavailable("the answer is incomplete")
            return Response(body, _entity_tag(response.headers), fresh_for)


class _Deadline:
    """Ends a connection at a fixed time, however slowly its bytes arrive.

    A socket's own timeout begins again with each byte.
    """

    def __init__(self, seconds: float) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ends = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self._ends

    def problem(self) -> KeysUnavailable:
        return KeysUnavailable(
            "the key server did not answer in time"
            if self.has_passed
            else "the key server cannot be reached"
        )

    def watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected
            if self.has_passed:
                _shut_down(connected)

    def _end(self) -> None:
        with self._lock:
            if self._socket is not None:
                _shut_down(self._socket)

    def __enter__(self) -> _Deadline:  # noqa: PYI034 - private, and Python 3.10 has no Self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _shut_down(connected: socket.socket) -> None:
    # Shutting down wakes a thread that waits for bytes. Closing would not, and could hit another
    # connection that got the same descriptor. `socket.socket.shutdown` does not touch TLS.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def checked_url(url: str) -> SplitResult:
    """Check that a URL is `https`, or `http` to a loopback host, without user and fragment."""
    problem = "keys are fetched over https, or over http from a loopback address only"
    if not url.isascii() or not url.isprintable() or " " in url or "#" in url or "\\" in url:
        raise ConfigurationError(problem)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(problem) from None
    if not host or "@" in parts.netloc:
        raise ConfigurationError(problem)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ConfigurationError(problem)
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls_context(ca_file: str | Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        # Some editors write a byte order mark at the start of a file.
        text = Path(ca_file).read_bytes().removeprefix(b"\xef\xbb\xbf").decode("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(f"ca_file cannot be read: {error.strerror}") from None
    # OpenSSL ignores a block that does not begin at the start of its line, and blocks of other
    # kinds. A missing root would only be noticed as a failed fetch.
    begun = text.count("-BEGIN ")
    certificates = len(re.findall(r"^-----BEGIN CERTIFICATE-----\r?$", text, re.MULTILINE))
    if begun == 0 or certificates != begun:
        raise ConfigurationError(
            f"ca_file: of {begun} PEM blocks {certificates} can be read as certificates; "
            "each has to begin its line with -----BEGIN CERTIFICATE-----"
        )
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ConfigurationError("ca_file has a certificate that cannot be read") from None
    return context


def freshness(headers: HTTPMessage) -> int:
    """Return the freshness of a response for a private cache (RFC 9111 section 4.2.1)."""
    seconds: int | None = None
    for value in headers.get_all("Cache-Control", []):
        for part in value.split(","):
            directive = part.strip().lower()
            if directive == "no-store" or directive.startswith("no-cache"):
                return _MIN_FRESHNESS
            if directive.startswith("max-age="):
                seconds = _seconds(directive.removeprefix("max-age=").strip('"'))
    age = _seconds(headers.get("Age", "")) or 0
    fresh_for = (_DEFAULT_FRESHNESS if seconds is None else seconds) - age
    return max(_MIN_FRESHNESS, min(fresh_for, _MAX_FRESHNESS))


def _seconds(text: str) -> int | None:
    return int(text) if _SECONDS.fullmatch(text) else None


def _entity_tag(headers: HTTPMessage) -> str | None:
    tag = headers.get("ETag")
    # It is sent back, so it must be a plain field value.
    return tag if tag is not None and tag.isascii() and tag.isprintable() else None
