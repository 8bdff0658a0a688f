"""Where a webhook may go: the rules that keep a URL that a person wrote from reaching into the network it is sent from.

Two gates. `check_url` looks at the text, which it takes only in a form that no two parsers read differently. `refusal`
looks at an address that a name was resolved to; whoever connects asks it of every one, and connects to no other.
What the operator allows (`keeper.webhook_internal`) passes both.
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

from fleetlog_schemas.limits import WEBHOOK_URL_BYTES_MAX

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORT_HTTPS = 443
PORT_FREE_MIN = 1024
"""Below this only 443: what listens there is mail, shells, name servers, and none of it takes webhooks."""
_URL = re.compile(
    r"(https?)://(?:([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.?)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)"
)
_METADATA = frozenset({"168.63.129.16"})
"""Addresses that look public and answer only inside a cloud."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_V4_COMPATIBLE = ipaddress.ip_network("::/96")


class Refused(ValueError):
    """A URL or an address that no webhook may go to; the message says why and what would be right."""


class Allowed(msgspec.Struct, frozen=True):
    """What the operator lets webhooks reach beside the public network."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()

    def has_host(self, host: str) -> bool:
        """Tell whether this name is allowed, whatever it resolves to."""
        return host.lower().rstrip(".") in self.hosts

    def has(self, address: Address) -> bool:
        """Tell whether this address is in an allowed network."""
        return any(address in network for network in map(ipaddress.ip_network, self.networks))


class Place(msgspec.Struct, frozen=True):
    """Where a URL leads."""

    scheme: str
    host: str
    port: int


def allowed_of(text: str) -> Allowed:
    """Return what the setting `keeper.webhook_internal` says: names and networks, with commas between.

    Raises:
        Refused: a part is neither.
    """
    hosts, networks = set(), []
    for part in (one.strip() for one in text.split(",") if one.strip()):
        try:
            networks.append(str(ipaddress.ip_network(part)))
        except ValueError:
            if "/" in part or not re.fullmatch(r"[A-Za-z0-9.-]+", part):
                raise Refused(
                    f"keeper.webhook_internal: {part[:60]!r} is neither a host's name nor a network such as 10.0.0.0/8"
                ) from None
            hosts.add(part.lower().rstrip("."))
    return Allowed(frozenset(hosts), tuple(networks))


def check_url(url: str, allowed: Allowed) -> Place:
    """Return where a webhook's URL leads.

    Raises:
        Refused: it is not of the form that is taken, not https, or leads to an address that is refused.
    """
    if len(url.encode()) > WEBHOOK_URL_BYTES_MAX:
        raise Refused(f"a URL has at most {WEBHOOK_URL_BYTES_MAX} bytes")
    if "@" in url.split("://", 1)[-1].split("/", 1)[0]:
        raise Refused("a URL with a user or password in it would put them into the log: messages are signed instead")
    matched = _URL.fullmatch(url)
    if matched is None:
        raise Refused("write https://HOST[:PORT]/PATH, in plain ASCII without spaces (a name in other letters as xn--...)")
    scheme, name, literal, port_text, _ = matched.groups()
    host = name or literal
    port = int(port_text) if port_text else PORT_HTTPS if scheme == "https" else 80
    address = literal_of(host)
    internal = allowed.has_host(host) or (address is not None and allowed.has(address))
    if address is not None and not internal and (why := refusal(address, allowed)):
        raise Refused(f"{host} is {why}: webhooks go to public addresses only, unless keeper.webhook_internal names it")
    if scheme != "https" and not internal:
        raise Refused("only https:// is taken: what is sent by http can be read and changed on its way")
    if not internal and port != PORT_HTTPS and not PORT_FREE_MIN <= port <= 65_535:
        raise Refused(f"port {port} is not one that takes webhooks: 443, or 1024 and above")
    if not 1 <= port <= 65_535:
        raise Refused(f"there is no port {port}")
    return Place(scheme, host, port)


def literal_of(host: str) -> Address | None:
    """Return the address that a host is written as; None when it is a name, to be resolved."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def refusal(address: Address, allowed: Allowed) -> str:
    """Return what speaks against sending a webhook to *address*; empty when nothing does."""
    if allowed.has(address):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return refusal(inner, allowed)
        if address.teredo is not None or address in _NAT64_LOCAL or address in _V4_COMPATIBLE or address.scope_id:
            return "an address that stands for another one" if not address.is_loopback else "this machine itself"
    return _kind(address)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address only wraps."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _kind(address: Address) -> str:
    if address.is_loopback:
        return "this machine itself"
    if address.is_unspecified:
        return "no address"
    if address.is_link_local or str(address) in _METADATA:
        return "an address of the local link, where clouds keep their secrets"
    if address.is_multicast:
        return "an address of many"
    if not address.is_global or address.is_reserved or getattr(address, "is_site_local", False):
        return "an address of an internal network"
    return ""
