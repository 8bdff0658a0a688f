"""Requests to the gateway over one kept connection, and problems turned into errors a person can act on.

A request that found a kept connection closed is sent again on a new one. Everything the client sends may be
repeated: submissions carry their id, the rest sets what it names.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fleetlog.exits import CliError, Exit, of_status

REQUEST_TIMEOUT_S = 30.0
"""Longest wait for one answer: questions that rebuild the past are the slowest."""
DOWNLOAD_BYTES = 256 * 1024
"""Of a large answer, read at once."""
VERSION_PREFIX = "/api/v1"

FLAGS = {
    "/target": "-t", "/host_ids": "-t", "/payload/argv": "ARGV", "/payload/args": "ARGS", "/payload/kwargs": "-k", "/payload/name": "NAME", "/payload/content": "FILE",
    "/payload/steps": "--step", "/payload/artifacts": "--artifact", "/payload/inputs": "--input",
    "/payload/to": "--to", "/payload/format": "--format", "/payload/tasks": "--task", "/payload/since_ms": "--since", "/payload/until_ms": "--until",
    "/payload/interpreter": "--interpreter", "/name": "--name", "/timeout_ms": "--timeout",
    "/task_timeout_ms": "--task-timeout", "/wait_offline_ms": "--wait-offline", "/parallel": "--parallel",
    "/retry/attempts_max": "--retries", "/retry/on": "--retry-on", "/retry/backoff_ms": "--backoff",
    "/retry/backoff_ms_max": "--backoff", "/tags": "--tag", "/options/env": "--env", "/options/env_names": "--env",
    "/options/secret_names": "--secret", "/options/stdin": "--stdin", "/options/cwd": "--cwd",
    "/options/user": "--user", "/options/umask": "--umask", "/options/memory_bytes_max": "--memory",
    "/options/files_max": "--files", "/options/output_bytes_max": "--output-max",
    "/options/exit_codes": "--ok-codes", "/plan_hash": "--plan-hash", "/labels": "--label", "/priority": "--priority",
    "/queue": "--queue", "/key": "--key", "/key_parallel": "--key-parallel", "/single_run": "--single-run",
    "/choose": "--any", "/choose/by": "--by", "/choose/label": "--spread or --one-per", "/rollout": "--waves",
    "/rollout/batch": "--batch", "/rollout/canary": "--canary", "/rollout/soak_ms": "--soak",
    "/rollout/approve": "--approve", "/failures_max": "--max-failures", "/ignore_windows": "--ignore-windows",
    "/reason": "--reason", "/hosts": "--host", "/wave": "--wave", "/kind": "--blackout or --maintenance", "/days": "--days",
    "/begins": "--at", "/lasts_minutes": "--for", "/latest": "--latest", "/message": "--message", "/zone": "--zone", "/in_flight_max": "N",
    "/events": "--on", "/url": "URL", "/query": "",
}
"""Field of a request to the option that fills it, so that an error names what was typed."""


class GatewayError(CliError):
    """The gateway answered with a problem. `status`, `problem_code`, `detail` and `pointer` (of its first error) are its own."""

    def __init__(self, status: int, problem_code: str, message: str, hint: str = "", *, detail: str = "", pointer: str = "") -> None:
        super().__init__(of_status(status), message, hint)
        self.status = status
        self.problem_code = problem_code
        self.detail, self.pointer = detail or message, pointer


class Stream:
    """The bytes of a live feed."""

    def __init__(self, response: http.client.HTTPResponse, wire: socket.socket) -> None:
        self._response = response
        self._wire = wire

    def read1(self, n: int = -1, /) -> bytes:
        """Return what has come, waiting for some; nothing at the end."""
        return self._response.read1(n)

    def abort(self) -> None:
        """End a read that waits in another thread."""
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back. Only for the thread that reads."""
        self._response.close()
        self._wire.close()


class Gateway:
    """A connection to one gateway. Not for several threads."""

    def __init__(self, url: str, token: str, ca: Path | None = None, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(Exit.TYPED_WRONG, f"not the address of a gateway: {url!r}", "write http://HOST:PORT")
        self.url = url.rstrip("/")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._token, self._ca, self._timeout_s = token, ca, timeout_s
        self._kept: http.client.HTTPConnection | None = None
        self.date = ""
        """The `Date` of the newest answer."""
        self.frozen = ""
        """What the newest answer says of freezes in force; empty when there are none."""

    def again(self) -> Gateway:
        """Return another connection to the same gateway, for another thread."""
        return Gateway(self.url, self._token, self._ca, self._timeout_s)

    def close(self) -> None:
        """Drop the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the decoded answer to a question; empty query values are left out."""
        return self._decoded(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: Any) -> bytes:
        """Return the body of the answer to a question."""
        return self._call("GET", VERSION_PREFIX + path + _query(query), None, {})

    def download(self, path: str, take: Callable[[bytes], object], **query: Any) -> http.client.HTTPMessage:
        """Give the body of an answer, which may be large, to *take* piece by piece, and return its headers.

        Raises:
            GatewayError: the gateway answered with a problem.
            CliError: it cannot be reached.
        """
        connection = self._connect(self._timeout_s)
        try:
            connection.request("GET", self._prefix + VERSION_PREFIX + path + _query(query), headers=self._authorization())
            response = connection.getresponse()
            if response.status != 200:
                raise _problem(response.status, response.read(), self.url)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None
        with contextlib.closing(connection):
            while data := self._piece(response):
                take(data)
        return response.headers

    def _piece(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(DOWNLOAD_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None

    def post(self, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """Send *body* (bytes as they are, anything else as JSON) and return the decoded answer.

        Header names are written with `_` for `-`. Bytes that are JSON already say so by their Content_Type.
        """
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            payload = body
            names.setdefault("Content-Type", "application/octet-stream")
        else:
            payload = b"" if body is None else json.dumps(body).encode()
            names.setdefault("Content-Type", "application/json")
        answer = self._call("POST", VERSION_PREFIX + path, payload, names)
        return self._decoded(answer) if answer else {}

    def put(self, path: str, body: Any, if_match: str = "") -> dict[str, Any]:
        """Let what *path* names be what *body* says, if it still is the version *if_match*, and return the decoded answer."""
        payload = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **_match(if_match)}
        return self._decoded(self._call("PUT", VERSION_PREFIX + path, payload, headers))

    def delete(self, path: str, if_match: str = "", **query: Any) -> dict[str, Any]:
        """Remove what *path* names, if it still is the version *if_match*, and return the decoded answer."""
        return self._decoded(self._call("DELETE", VERSION_PREFIX + path + _query(query), None, _match(if_match)))

    def probe(self, path: str) -> tuple[int, Any]:
        """Return status and decoded body (None when it is not JSON) of a path outside the versioned API."""
        status, body = self._exchange("GET", path, None, {})
        try:
            return status, json.loads(body)
        except ValueError:
            return status, None

    def open_stream(self, path: str, last_event_id: str, timeout_s: float) -> Stream:
        """Start a live feed on a connection of its own; *timeout_s* is the longest silence."""
        connection = self._connect(timeout_s)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", **self._authorization()}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        try:
            connection.connect()
            wire: socket.socket = connection.sock
            connection.request("GET", self._prefix + VERSION_PREFIX + path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _problem(response.status, response.read(), self.url)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None
        return Stream(response, wire)

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CliError(Exit.INTERNAL, f"{self.url} does not answer as a fleetlog gateway: check the address")
        return answer

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._scheme == "http":
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        context = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        status, answer = self._exchange(method, path, body, headers)
        if status >= 300:
            raise _problem(status, answer, self.url)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return self._once(kept, method, path, body, headers)
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest):
                kept.close()  # it was closed while it lay idle; a new one tells whether the gateway lives
            except (OSError, http.client.HTTPException) as error:
                kept.close()
                raise self._unreachable(error) from None
        try:
            return self._once(self._connect(self._timeout_s), method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None

    def _once(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        connection.request(method, self._prefix + path, body=body, headers={**headers, **self._authorization()})
        response = connection.getresponse()
        answer = response.read()
        self.date = response.headers.get("Date", "")
        self.frozen = response.headers.get("Fleetlog-Frozen", "")
        if response.will_close:
            connection.close()
        else:
            self._kept = connection
        return response.status, answer

    def _unreachable(self, error: Exception) -> CliError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return CliError(
                Exit.UNREACHABLE, f"the certificate of {self.url} is not trusted: {error.verify_message}",
                "set FLEETLOG_CA to the gateway's tls/ca.pem",
            )
        if isinstance(error, TimeoutError):
            return CliError(Exit.UNREACHABLE, f"the gateway at {self.url} did not answer in {self._timeout_s:.0f} s")
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CliError(
            Exit.UNREACHABLE, f"the gateway at {self.url} cannot be reached: {reason}", "is `fleetlog up` running?"
        )


def _match(version: str) -> dict[str, str]:
    return {"If-Match": version if version == "*" else f'"{version}"'} if version else {}


def segment(text: str) -> str:
    """Return *text* as one segment of a path."""
    return quote(text, safe="")


def _query(query: Mapping[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "", 0, False)}
    return "?" + urlencode(given) if given else ""


def _problem(status: int, body: bytes, url: str) -> GatewayError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return GatewayError(status, "", f"{url} answered {status} without saying why: is this a fleetlog gateway?")
    detail = message = str(problem.get("detail") or problem.get("title") or f"status {status}")
    first = ""
    for entry in problem.get("errors") or ():
        text, pointer = str(entry.get("message", "")), str(entry.get("pointer", ""))
        named = text if status == HTTPStatus.NOT_FOUND or _says_what(pointer, text) else f"{flag_of(pointer)}: {text}"
        first = first or pointer
        if text in message:
            message = message.replace(text, named, 1)
        else:
            message += f"\n  {named}"
    hint = "set FLEETLOG_TOKEN, or run as the user who started `fleetlog up`" if status == 401 else ""
    return GatewayError(status, str(problem.get("code", "")), message, hint, detail=detail, pointer=first)


def _says_what(pointer: str, text: str) -> bool:
    """Tell whether a message needs no option before it: it has its own subject, or is about the whole."""
    return not flag_of(pointer) or (pointer == "/name" and text.startswith("a "))


def flag_of(pointer: str) -> str:
    """Return the option that fills the field which *pointer* (RFC 6901) names; the pointer itself when none does."""
    if pointer.startswith("/parameters/"):
        return f"-p {pointer.removeprefix('/parameters/')}"
    pointer = pointer.removeprefix("/definition").removeprefix("/spec")
    head = pointer
    while head:
        if head in FLAGS:
            return FLAGS[head]
        head = head.rpartition("/")[0]
    return pointer
