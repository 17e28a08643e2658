"""Who may ask for a page, and how it is answered: to this machine alone, or to whoever knows a token."""

from __future__ import annotations

import hmac
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from .look import script_source

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, by which alone a page without a token may be asked for."""

HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
"""Headers of a page."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; frame-ancestors 'none'"
)
"""A page loads nothing from elsewhere, and no other page may hold it in a frame. It runs its own scripts alone."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may see a page and open its socket."""

    host: str
    """Where the page is served."""
    token: str | None
    """What the address of the page must hold; None for none."""
    printer: str
    """Who prints that address, as "the recording"."""
    purpose: str
    """What the socket of the page is for, as "drive the robot"."""

    def address(self, port: int) -> str:
        """The address of the page at a port."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{port}/" + (f"?token={quote(self.token, safe='')}" if self.token else "")

    def refusal(self, path: str, host: str, origin: str | None, *, is_socket: bool) -> tuple[int, str]:
        """The status and the reason if a request is refused; (0, "") otherwise. host, origin: of its headers."""
        address = _split(path)
        if self.token is not None:
            tokens = parse_qs(address.query).get("token", [""])
            if not hmac.compare_digest(tokens[0].encode(errors="replace"), self.token.encode()):
                return 401, f"this page needs its token: open the address that {self.printer} has printed\n"
        elif _split(f"//{host}").hostname not in (*LOOPBACK, self.host):
            return (
                403,
                f"this page is served to this machine alone: open the address that {self.printer} has printed\n",
            )
        if is_socket and (origin is None or _split(origin).netloc != host):
            return 403, f"only the page itself may {self.purpose}\n"
        if address.path != ("/socket" if is_socket else "/"):
            return 404, "not found: only the page itself exists\n"
        return 0, ""

    def admit(self, connection: Any, request: Any, page: str) -> Any:
        """Answer a request for the page, or refuse it; None lets a socket be opened. page: its HTML.

        connection, request: those of `process_request` of a server of websockets.
        """
        headers = request.headers
        is_socket = bool(headers.get_all("Upgrade"))
        host, origins = ",".join(headers.get_all("Host")), headers.get_all("Origin")
        origin = origins[0] if len(origins) == 1 else None
        status, why = self.refusal(request.path, host, origin, is_socket=is_socket)
        if status:
            return connection.respond(status, why)
        if is_socket:
            return None
        response = connection.respond(200, page)
        for name, value in {**HEADERS, "Content-Security-Policy": f"{POLICY}; {script_source(page)}"}.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response


def _split(address: str) -> SplitResult:
    """The parts of an address that somebody sent; none of one that is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def listen(host: str, port: int, *, key: str) -> socket.socket:
    """A socket that listens there. key: of the port, for the message. Raises ConnectionError if nothing can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConnectionError(
            f"the page cannot be served at {host}, port {port} ({error.strerror or error}): choose another one with "
            f"{key}=..., or {key}=0 for a free one"
        ) from None
