"""Host headers, and what another machine is told to connect to."""

from __future__ import annotations

import pytest

from fleetlog_gateway.addresses import Addresses, host_name, is_loopback
from fleetlog_gateway.decode import as_of
from fleetlog_gateway.problems import HttpProblem


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("localhost:8420", "localhost"), ("LOCALHOST.", "localhost"), ("127.0.0.1", "127.0.0.1"), ("[::1]:8420", "::1"),
        ("[::1]", "::1"), ("[::1]evil.example", ""), ("[::1", ""), ("", ""), ("evil.example:8420", "evil.example"),
        ("localhost.evil.example", "localhost.evil.example"),
    ],
)
def test_a_host_header_is_read_as_the_name_it_means(header: str, expected: str) -> None:
    assert host_name(header) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("localhost", True), ("127.0.0.5", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("web1", False)],
)
def test_only_addresses_of_this_machine_alone_are_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_the_line_to_paste_names_address_token_and_fingerprint() -> None:
    plain = Addresses(scheme="http", port=8420, advertised="127.0.0.1", nats_urls=("nats://127.0.0.1:4222",))
    assert plain.line("127.0.0.1", "fltj_x") == "fleetlog agent join http://127.0.0.1:8420 --token fltj_x"
    tls = Addresses(scheme="https", port=8420, advertised="fe80::1", nats_urls=(), ca_sha256="ab")
    assert tls.line("fe80::1", "fltj_x") == "fleetlog agent join https://[fe80::1]:8420 --token fltj_x --ca-sha256 ab"


def test_a_bus_known_by_loopback_is_reached_like_the_gateway_and_another_one_as_given() -> None:
    given = Addresses(scheme="https", port=1, advertised="", nats_urls=("tls://127.0.0.1:4222", "tls://n2.example:4222"))
    assert given.nats_urls_for("10.0.0.5") == ["tls://10.0.0.5:4222", "tls://n2.example:4222"]
    assert given.nats_urls_for("fe80::1")[0] == "tls://[fe80::1]:4222"
    assert given.nats_urls_for("localhost")[0] == "tls://127.0.0.1:4222"


def test_a_past_state_is_a_sequence_or_a_time() -> None:
    assert as_of("") == {}
    assert as_of("12") == {"as_of_seq": 12, "at_least_seq": 12}
    assert as_of("2026-01-01T00:00:00Z") == {"as_of_ms": 1767225600000}
    assert as_of("2026-01-01T01:00:00 01:00") == {"as_of_ms": 1767225600000}


@pytest.mark.parametrize("text", ["0", "-1", "x", "2026-01-01", "2026-01-01T00:00:00", "9" * 40, "1e5", "٣"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        as_of(text)
    assert caught.value.code == "bad-query"
