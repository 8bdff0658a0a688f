"""The HTTP server: one function that every request goes through, and problems for what fails before it.

aiohttp's low-level server is used, not its application: routing, authentication and decoding come from one table
(`registry.py`), so nothing can be reached that the table does not name. Order: host name, route, token, permission,
query, body, handler. No CORS headers are ever sent, so a page of another origin can read nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import structlog
from aiohttp import web, web_request
from aiohttp.web_protocol import RequestHandler

from fleetlog_gateway import decode, frozen, limits
from fleetlog_gateway.addresses import LOOPBACK_NAMES, host_name
from fleetlog_gateway.auth import NOBODY, Permission, Principal
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HEADERS, MEDIA_TYPE, HttpProblem
from fleetlog_gateway.registry import Call, Nothing, Raw, Registry, Route
from fleetlog_runtime.pure.bus import ArchiveMissing, NoAnswer

_KNOWN = web.RequestKey("known", bool)
"""Marks a request whose sender is known: who froze what, and why, is not for strangers."""


def problem_response(problem: HttpProblem, path: str) -> web.Response:
    """Return *problem* as a response about *path*."""
    response = web.Response(body=problem.body(path), status=problem.status, headers=problem.headers)
    response.content_type = MEDIA_TYPE
    response.headers.update(HEADERS)
    if problem.status in (400, 408, 413, 421):
        response.force_close()  # what is left of the request is not worth reading
    return response


class Front:
    """What stands between the socket and the handlers."""

    def __init__(self, gateway: Gateway, registry: Registry, host_names: Iterable[str]) -> None:
        """Answer to these host names (and to loopback's) only."""
        self._gateway = gateway
        self._registry = registry
        self._host_names = LOOPBACK_NAMES | {name.lower() for name in host_names}

    async def __call__(self, request: web_request.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            response = await self._answer(request)
        except HttpProblem as problem:
            response = problem_response(problem, request.path)
        except ArchiveMissing as error:
            response = problem_response(HttpProblem("archive-missing", str(error)), request.path)
        except NoAnswer as error:  # of a read: whatever stores something settles its own fate
            away = HttpProblem("bus-unavailable", f"the bus does not answer: {error}")
            response = problem_response(away, request.path)
        if not response.prepared:
            response.headers.update(HEADERS)
            if _KNOWN in request:
                response.headers.update(frozen.headers_of(self._gateway.access.policies))
        return response

    async def _answer(self, request: web_request.BaseRequest) -> web.StreamResponse:
        self._check_host(request)
        route, path = self._registry.match(request.method, request.rel_url.raw_path)
        principal = self._authenticate(request, route)
        if route.auth is not Permission.PUBLIC:
            request[_KNOWN] = True
        query = decode.query(request, route.query)
        body = await _body(request, route)
        return await route.handler(
            Call(gateway=self._gateway, request=request, path=path, query=query, body=body, principal=principal)
        )

    def _check_host(self, request: web_request.BaseRequest) -> None:
        # A page whose name was rebound to this address sends its own name here, and is refused by it.
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1:
            raise HttpProblem("malformed-request", "send exactly one Host header")
        if host_name(hosts[0]) not in self._host_names:
            self._gateway.count_refusal("host-name")
            raise HttpProblem("misdirected", "use the name or address that the gateway listens on")

    def _authenticate(self, request: web_request.BaseRequest, route: Route) -> Principal:
        if route.auth is Permission.PUBLIC:
            return NOBODY
        header = request.headers.get("Authorization", "")
        principal = self._gateway.tokens.principal(header)
        if principal is None:
            self._gateway.refuse_remote("token" if header else "no-token", request.remote or "")
            raise HttpProblem(
                "unauthenticated", "send `Authorization: Bearer TOKEN`; the token stands in the file gateway/token"
                " of the server's data folder", headers={"WWW-Authenticate": "Bearer"},
            )
        try:
            principal.require(route.auth)
        except HttpProblem:
            self._gateway.count_refusal("permission")
            raise
        return principal


async def _body(request: web_request.BaseRequest, route: Route) -> Any:
    if route.body is Nothing:
        if request.method not in ("GET", "HEAD") and await decode.read_body(request, limits.JSON_BODY_BYTES_MAX):
            raise HttpProblem("invalid", "this path takes no body")
        return Nothing()
    body = await decode.read_body(request, route.body_bytes_max)
    if route.body is Raw:
        return Raw(body)
    if not body and route.body_optional:
        return route.body()
    decode.check_json_type(request)
    return decode.json_body(body, route.decoder)


class _Handler(RequestHandler):
    """A connection whose own errors are problems too, without traceback."""

    __slots__ = ()

    def handle_error(
        self, request: web_request.BaseRequest, status: int = 500, exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what failed before or inside the handler; always closes the connection."""
        del message  # may quote what was sent
        log = structlog.get_logger("gateway")
        if status >= 500:
            log.error("request failed", method=request.method, path=request.path, exc_info=exc)
            problem = HttpProblem("internal", "this is a fault of the gateway; its diagnostics say more")
        else:
            log.debug("request refused", status=status, reason=str(exc)[:200])
            problem = HttpProblem("malformed-request", "the request is not HTTP/1.1 as it should be", status=status)
        if request.writer.output_size > 0:
            raise ConnectionError("the response had begun; it cannot become a problem")
        response = problem_response(problem, request.path)
        response.force_close()
        return response


class HttpServer(web.Server):
    """aiohttp's low-level server with the limits of this gateway."""

    def __init__(self, front: Front) -> None:
        """Serve *front*."""
        super().__init__(front)
        self._settings: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,  # a small compressed body must not become a large one
            "lingering_time": limits.LINGER_SECONDS,
            "keepalive_timeout": limits.KEEPALIVE_SECONDS,
            "max_line_size": limits.HEADER_LINE_BYTES_MAX,
            "max_field_size": limits.HEADER_LINE_BYTES_MAX,
            "max_headers": limits.HEADERS_MAX,
        }

    def __call__(self) -> RequestHandler:
        """Make the protocol of one connection."""
        return _Handler(self, loop=self._loop, **self._settings)


class Serving:
    """A server that listens."""

    def __init__(self, runner: web.ServerRunner) -> None:
        """Own *runner*."""
        self._runner = runner

    @property
    def port(self) -> int:
        """The port of the first address."""
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening, let running requests end, close connections."""
        await self._runner.cleanup()


async def serve(front: Front, address: str, port: int, tls: ssl.SSLContext | None) -> Serving:
    """Listen on *address* and *port* (0: a free one). Raises OSError."""
    runner = web.ServerRunner(HttpServer(front), shutdown_timeout=limits.SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
    except OSError:
        await runner.cleanup()
        raise
    return Serving(runner)
