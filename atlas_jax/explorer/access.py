"""Who may read the page, and what the page may reach: nothing but its own server."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "atlas-jax"
# Gradio builds its views with Function and styles elements inline; nothing comes from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; frame-src 'none'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# Of Gradio's own routes those that read or write files, reach other servers, or edit the page.
_FILES = ("upload", "file", "proxy", "stream", "run", "deep_link", "vibe", "undo-vibe")
_CLOSED = (*(f"/gradio_api/{name}" for name in _FILES), "/monitoring", "/login")


def is_local(host: str) -> bool:
    """Whether nobody but this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Lets requests through that carry the token; without a token, those of this machine's pages.

    The token comes once in the address (`?token=`) and is then a cookie. Where there is none, the
    name that the browser asked for must be a local one: another site's name that leads here
    (DNS rebinding) is refused.

    Args:
        app: what answers.
        token: that is required; "" for none.
    """

    def __init__(self, app: App, token: str = "") -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if scope["type"] != "http":
            return
        if not _same_origin(headers):
            await _answer(send, 403, "Pages of other sites may not ask.")
        elif not self.token and not is_local(_host(headers)):
            await _answer(send, 403, "This page is for this machine only.")
        elif self.token and self._same(query.pop("token", "")):
            await self._welcome(scope, query, send)
        elif self.token and not self._same(_cookie(headers)):
            await _answer(send, 401, "Open the address with the token that atlas-jax printed.")
        elif scope["path"].startswith(_CLOSED):
            await _answer(send, 404, "Not here.")
        else:
            await self.app(scope, receive, _with_headers(send))

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def _welcome(self, scope: Scope, query: dict[str, str], send: Send) -> None:
        """The same address without the token, which is from then on a cookie."""
        rest = urlencode(query)
        place = f"?{rest}" if rest else "."
        cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        head = [(b"location", place.encode()), (b"set-cookie", cookie.encode())]
        await _answer(send, 303, "", head)


def _host(headers: MutableMapping[str, bytes]) -> str:
    try:
        return urlsplit(f"//{headers.get('host', b'').decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _same_origin(headers: MutableMapping[str, bytes]) -> bool:
    """Whether a script of this page asks, or none at all."""
    origin = headers.get("origin")
    return origin is None or origin.rpartition(b"://")[2] == headers.get("host", b"")


def _cookie(headers: MutableMapping[str, bytes]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _answer(
    send: Send, status: int, text: str, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS, *(more or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
