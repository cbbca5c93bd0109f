"""What stands before every route: who may ask, and what is counted of each answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import pathlib
import re
import urllib.parse

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_lm.serving import openai_api
from keras_lm.serving.metrics import Metrics
from keras_lm.serving.refusing import Refused, shutting_down

OPEN = ("/", "/healthz")
"""Paths that need no token: the page, which asks for one itself, and what a balancer asks."""

_OPENAI = ("/v1/completions", "/v1/chat/", "/v1/models")
_PAGE = pathlib.Path(__file__).with_name("page.html")


class Gate:
    """The outermost part of the application.

    Args:
        app: The rest of it.
        metrics: Count the requests.
        token: What a client must send as `Authorization: Bearer TOKEN`; default nothing.
        any_host: Whether the server may be called by any name. Without it, and without a token, only names of this machine are answered,
            so that a page of another site cannot ask in a person's browser.

    Attributes:
        closing: Set when the server shuts down; what comes then is refused.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, state, token: str | None = None, any_host: bool = False):
        self._app, self._metrics, self._state = app, metrics, state
        self._token = None if token is None else token.encode()
        self._check_names = token is None and not any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # a client that went away, as nginx has it

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        method, inside = scope["method"], dict(scope)
        if method == "HEAD":  # answered as GET, of whose answer uvicorn sends the head
            inside["method"] = "GET"
        try:
            if (refused := self._refuse(inside)) is not None:
                await error_response(scope["path"], refused)(scope, receive, watch)
            else:
                await self._app(inside, receive, watch)
        finally:
            route = getattr(inside.get("route"), "path", "other")
            self._metrics.requests.labels(route=route, status=str(status)).inc()

    def _refuse(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        if self._state.closing and scope["path"] != "/metrics":
            return shutting_down()
        if self._check_names:
            for name in ("host", "origin"):
                if name in headers and not _is_this_machine(headers[name]):
                    return Refused(403, f"{name.capitalize()} {headers[name][:100]!r} is not this machine: use localhost, or a token")
        if self._token is not None and scope["path"] not in OPEN:
            given = headers.get("authorization", "")
            kind, _, token = given.partition(" ")
            if not hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token) or kind.lower() != "bearer":
                message = "a token is needed: send the header Authorization: Bearer TOKEN"
                return Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


def _is_this_machine(value: str) -> bool:
    try:
        name = urllib.parse.urlsplit(value if "//" in value else f"//{value}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def error_response(path: str, refused: Refused) -> Response:
    """An error in the form of the interface that was asked."""
    openai = path.startswith(_OPENAI[:2]) or path == _OPENAI[2]
    content = openai_api.error(refused) if openai else {"error": refused.message}
    return JSONResponse(content, refused.status, refused.headers)


def page() -> Response:
    """The page, allowed to run its own script and style and to ask this server."""
    html = _PAGE.read_text(encoding="utf-8")

    def hashes(name: str) -> str:
        found = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found) or "'none'"

    rules = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        f"script-src {hashes('script')}; style-src {hashes('style')}",
    )
    headers = {"Content-Security-Policy": "; ".join(rules), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)
