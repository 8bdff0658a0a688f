"""Which addresses a webhook may reach: the public ones, however an internal one is written or wrapped."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_runtime.pure import egress, webhook_signing
from fleetlog_runtime.pure.egress import Allowed, Refused, allowed_of, check_url, refusal

NOTHING = Allowed()
INTERNAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24", "192.168.0.0/16",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32", "168.63.129.16/32",
]
INTERNAL_6 = ["::1/128", "::/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32", "2001::/32", "64:ff9b:1::/48"]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e"]


def within(networks: list[str]) -> st.SearchStrategy[str]:
    def one_of(network: str) -> st.SearchStrategy[str]:
        found = ipaddress.ip_network(network)
        first, last = int(found[0]), int(found[-1])
        return st.integers(first, last).map(lambda number: str(type(found[0])(number)))

    return st.one_of([one_of(network) for network in networks])


def wrapped(text: str) -> list[str]:
    """Return the IPv6 addresses that only wrap an IPv4 address."""
    number = int(ipaddress.IPv4Address(text))
    return [
        str(ipaddress.IPv6Address((0xFFFF << 32) | number)), str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)),
        str(ipaddress.IPv6Address((0x64FF9B << 96) | number)),
    ]


@given(within(INTERNAL + INTERNAL_6))
def test_no_internal_address_is_reached(text: str) -> None:
    assert refusal(ipaddress.ip_address(text), NOTHING)


@given(within(INTERNAL))
def test_no_internal_address_is_reached_by_wrapping_it(text: str) -> None:
    for one in wrapped(text):
        assert refusal(ipaddress.ip_address(one), NOTHING), one


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_reached(text: str) -> None:
    assert refusal(ipaddress.ip_address(text), NOTHING) == ""
    if ":" not in text:
        assert refusal(ipaddress.ip_address(wrapped(text)[0]), NOTHING) == ""


@given(within(["10.1.0.0/16"]), within(["10.2.0.0/16"]))
def test_what_the_operator_allows_is_reached_and_its_neighbour_is_not(inside: str, outside: str) -> None:
    allowed = allowed_of("10.1.0.0/16, hooks.lan")
    assert refusal(ipaddress.ip_address(inside), allowed) == ""
    assert refusal(ipaddress.ip_address(outside), allowed)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/x", "only https://"),
        ("https://user:pw@example.com/x", "user or password"),
        ("https://example.com@10.0.0.1/x", "user or password"),
        ("https://10.0.0.1/x", "internal network"),
        ("https://127.0.0.1/x", "this machine"),
        ("https://[::1]/x", "this machine"),
        ("https://[::ffff:127.0.0.1]/x", "this machine"),
        ("https://169.254.169.254/latest/meta-data", "local link"),
        ("https://[fe80::1%25eth0]/x", "write https://"),
        ("https://example.com:22/x", "port 22"),
        ("https://example.com:99999/x", "port 99999"),
        ("https://example.com\\@10.0.0.1/x", "user or password"),
        ("https://exa mple.com/x", "write https://"),
        ("https://example.com/x\n", "write https://"),
        ("https://example.com/#x", "write https://"),
        ("https://b\u00fccher.example/x", "write https://"),
        ("ftp://example.com/x", "write https://"),
        ("https:///x", "write https://"),
        ("", "write https://"),
        ("https://example.com/" + "x" * 2_000, "at most"),
    ],
)
def test_a_url_that_leads_elsewhere_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        check_url(url, NOTHING)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://example.com", "example.com", 443), ("https://example.com:8443/a/b?c=d&e=%20", "example.com", 8443),
        ("https://1.1.1.1/x", "1.1.1.1", 443), ("https://[2606:4700:4700::1111]:8443/x", "2606:4700:4700::1111", 8443),
        ("https://2130706433/x", "2130706433", 443),
    ],
)
def test_a_url_that_is_taken_says_where_it_leads(url: str, host: str, port: int) -> None:
    assert check_url(url, NOTHING) == egress.Place("https", host, port)


def test_an_allowed_host_or_network_is_taken_also_by_http_and_on_any_port() -> None:
    allowed = allowed_of("hooks.lan, 10.1.0.0/16,127.0.0.1")
    for url in ("http://hooks.lan:80/x", "http://HOOKS.lan./x", "http://10.1.2.3:81/x", "http://127.0.0.1:1234/x"):
        check_url(url, allowed)
    with pytest.raises(Refused):
        check_url("http://other.lan/x", allowed)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "a/b", "10.0.0.1/8", "http://x"])
def test_a_setting_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"keeper\.webhook_internal"):
        allowed_of(text)


# --- signing ---


def test_a_message_is_signed_as_the_standard_says() -> None:
    # The example of Standard Webhooks: secret, id, time and body of its reference libraries.
    import base64

    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook_signing.signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_every_secret_is_another_one_and_follows_from_its_key() -> None:
    made = {webhook_signing.secret(key, one, number) for key in (b"k", b"l") for one in ("a", "b") for number in (1, 2)}
    assert len(made) == 8
    assert all(len(one) == 32 for one in made)
    assert webhook_signing.text_of(next(iter(made))).startswith("whsec_")
