"""Join a fleet: make the key here, show the one-time token, pin the authority, keep what comes back.

The key is on disk before the token is spent: when the answer is lost, the same line works again. The authority's
certificate is fetched first without trust and believed only if it has the fingerprint of the pasted line.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import nkeys

from fleetlog_agent import collectors
from fleetlog_agent.identity import Identity, write_identity
from fleetlog_runtime.shell.files import create_private, private_folder, write_atomic
from fleetlog_runtime.shell.nats_auth import credentials, host_id_of, new_seed

ANSWER_SECONDS_MAX = 30
ANSWER_BYTES_MAX = 1024 * 1024


class JoinError(Exception):
    """The host did not join; the message says what to do."""


class _Joined(msgspec.Struct):
    host_id: str
    name: str
    user_jwt: str
    nats_urls: tuple[str, ...]
    signing_keys: dict[str, str]
    nats_ca: str = ""


def join(folder: Path, url: str, token: str, ca_sha256: str = "") -> Identity:
    """Make this machine a host of the fleet behind *url*, with *folder* as its agent's own.

    Raises:
        JoinError: refused, unreachable, not to be trusted, or the folder is in use.
    """
    _check_url(url, ca_sha256)
    if (folder / "identity.toml").exists():
        raise JoinError(f"{folder} belongs to a host that has joined already: start it, or use another --data folder")
    try:
        private_folder(folder)
        create_private(folder / "seed", new_seed("user"))
        seed = (folder / "seed").read_bytes()
    except OSError as error:
        raise JoinError(f"{folder} cannot be used: {error.strerror}; give another folder with --data") from None
    public = bytes(nkeys.from_seed(bytearray(seed)).public_key).decode()
    authority, context = _trust(url, ca_sha256)
    body = json.dumps({"token": token, "public_key": public, "boot_id": collectors.boot_id()}).encode()
    joined = _read(_ask(f"{url.rstrip('/')}/api/v1/join", context, body))
    if joined.host_id != host_id_of(public):
        raise JoinError("the server gave this host an identity that is not its key's: do not trust it")
    identity = Identity(
        host_id=joined.host_id, name=joined.name, nats_urls=joined.nats_urls, signing_keys=joined.signing_keys,
        gateway=url.rstrip("/"),
    )
    if joined.nats_ca or authority:
        write_atomic(folder / "ca.pem", (joined.nats_ca or authority).encode())
    write_atomic(folder / "creds", credentials(joined.user_jwt, seed).encode())
    write_identity(folder, identity)
    os.unlink(folder / "seed")  # noqa: PTH108
    return identity


def _check_url(url: str, ca_sha256: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JoinError(f"{url!r} is not the address of a gateway: it looks like https://HOST:PORT")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise JoinError("plain http is only for this machine itself: use the https line that `fleetlog host add` prints")
    if ca_sha256 and not re.fullmatch(r"[0-9a-f]{64}", ca_sha256.lower().replace(":", "")):
        raise JoinError("--ca-sha256 is 64 hexadecimal digits: copy the whole line")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _trust(url: str, ca_sha256: str) -> tuple[str, ssl.SSLContext | None]:
    """Return the authority to pin, and a context that trusts it alone; without a fingerprint, the system's."""
    if urlsplit(url).scheme == "http":
        return "", None
    if not ca_sha256:
        return "", ssl.create_default_context()
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    answer = _ask(f"{url.rstrip('/')}/api/v1/ca", unchecked, None)
    pem = str(answer.get("data", answer).get("pem", "")) if isinstance(answer, dict) else ""
    try:
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest()
    except ValueError:
        raise JoinError(f"{url} does not show a certificate authority: is it a fleetlog gateway?") from None
    if not hmac.compare_digest(digest, ca_sha256.lower().replace(":", "")):
        raise JoinError(
            "the server's certificate authority does not have the fingerprint of the line: somebody is in between, or"
            " the line is of another server"
        )
    return pem, ssl.create_default_context(cadata=pem)


def _ask(url: str, context: ssl.SSLContext | None, body: bytes | None) -> Any:
    """Return the JSON of an answer. Raises JoinError."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310 - checked above
    # No proxy: the token is for this server alone. No redirects either: they would lead to somebody else.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=ANSWER_SECONDS_MAX) as answer:
            return json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        raise JoinError(f"the server refuses: {_problem(error)}") from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise JoinError(f"{url} cannot be reached: {reason}") from None
    except ValueError:
        raise JoinError(f"{url} answered something that is not JSON: is it a fleetlog gateway?") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Never follow."""


def _problem(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(error.read(ANSWER_BYTES_MAX))
        return str(problem.get("detail") or problem.get("title") or error.code)
    except (ValueError, AttributeError, OSError):
        return f"HTTP {error.code}"


def _read(answer: Any) -> _Joined:
    content = answer.get("data", answer) if isinstance(answer, dict) else answer
    try:
        joined = msgspec.convert(content, _Joined)
    except msgspec.ValidationError as error:
        raise JoinError(f"the server's answer cannot be read: {error}") from None
    if not joined.nats_urls or not joined.signing_keys:
        raise JoinError("the server's answer lacks the bus's address or the key to obey: ask its administrator")
    return joined
