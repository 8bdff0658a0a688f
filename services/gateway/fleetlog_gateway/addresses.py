"""Host names and addresses: what a request was sent to, and what another machine is told to connect to. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit, urlunsplit

import msgspec

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def host_name(header: str) -> str:
    """Return the host of a Host header without its port, in lower case; empty when it cannot be read."""
    text = header.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        return name if bracket and (not rest or rest.startswith(":")) else ""
    name, _, _ = text.partition(":")
    return name.rstrip(".")


def is_loopback(address: str) -> bool:
    """Tell whether *address* (a name or an IP address) is this machine alone."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Addresses(msgspec.Struct, frozen=True):
    """Where this gateway and its bus are reached."""

    scheme: str
    port: int
    advertised: str
    """The host in the line to paste, when the request itself came over loopback."""
    nats_urls: tuple[str, ...]
    ca_pem: str = ""
    ca_sha256: str = ""
    """Of the certificate's DER form, as `openssl x509 -fingerprint -sha256` has it, in lower-case hexadecimal."""
    signing_keys: dict[str, str] = {}

    def url(self, host: str) -> str:
        """Return this gateway's address under *host*."""
        name = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{name}:{self.port}"

    def line(self, host: str, token: str) -> str:
        """Return what to paste on the new machine."""
        pinned = f" --ca-sha256 {self.ca_sha256}" if self.ca_sha256 else ""
        return f"fleetlog agent join {self.url(host)} --token {token}{pinned}"

    def nats_urls_for(self, host: str) -> list[str]:
        """Return the bus's addresses for an agent that reached the gateway under *host*.

        The bus beside this gateway is known by its loopback address; another machine reaches it by the same name
        as the gateway.
        """
        return [_with_host(url, host) for url in self.nats_urls]


def _with_host(url: str, host: str) -> str:
    parts = urlsplit(url)
    if host in LOOPBACK_NAMES or (parts.hostname or "") not in LOOPBACK_NAMES:
        return url
    name = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{name}:{parts.port}" if parts.port else name))
