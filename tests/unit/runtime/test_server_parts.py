"""The parts around the embedded server: reservations that fit the disk, certificates, the binary."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import ssl
import types
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509

from fleetlog_runtime.shell import streams, supervisor
from fleetlog_runtime.shell.home import HomeError, create_home
from fleetlog_runtime.shell.nats_config import server_config
from fleetlog_runtime.shell.streams import reservations
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError, find_binary, is_loopback
from fleetlog_runtime.shell.tls import client_context, ensure_server_certificate
from fleetlog_schemas import subjects

GIB = 1024**3


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int



def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))


def test_on_a_large_disk_streams_get_what_they_are_defined_with(tmp_path, monkeypatch):
    with_free(monkeypatch, 1000 * GIB)
    sizes = reservations(create_home(tmp_path / "home"))
    assert sizes == {s.name: s.bytes_max for s in subjects.STREAMS} | {subjects.BLOBS: subjects.BLOBS_BYTES_MAX}


def test_on_a_small_disk_they_shrink_in_proportion_and_fit(tmp_path, monkeypatch):
    with_free(monkeypatch, 10 * GIB)
    sizes = reservations(create_home(tmp_path / "home"))
    assert sum(sizes.values()) <= 8 * GIB
    assert sizes["EVENTS"] == pytest.approx(2 * sizes["OUTPUT"], rel=0.01)
    assert sizes["LEADERS"] == 16 * 1024**2


def test_what_was_reserved_stays_when_the_disk_fills(tmp_path, monkeypatch):
    home = create_home(tmp_path / "home")
    with_free(monkeypatch, 1000 * GIB)
    before = reservations(home)
    with_free(monkeypatch, GIB)
    assert reservations(home) == before


def test_a_stream_that_a_newer_version_adds_gets_its_share_of_what_is_left(tmp_path, monkeypatch):
    home = create_home(tmp_path / "home")
    with_free(monkeypatch, 100 * GIB)
    kept = {name: size for name, size in reservations(home).items() if name != "OUTPUT"}
    (home.path / "nats" / "reserved.json").write_text(json.dumps(kept))
    after = reservations(home)
    assert {name: after[name] for name in kept} == kept
    assert after["OUTPUT"] > GIB


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    with_free(monkeypatch, 100 * 1024**2)
    with pytest.raises(HomeError, match="free some space"):
        reservations(create_home(tmp_path / "home"))


def test_the_certificate_is_of_our_authority_for_every_name_and_made_once(tmp_path):
    home = create_home(tmp_path / "home")
    ensure_server_certificate(home, ("0.0.0.0", "10.1.2.3", "bus.example.org"))
    folder = home.path / "tls"
    first = (folder / "server.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(first)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"bus.example.org", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"10.1.2.3", "127.0.0.1"} == {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()))
    ensure_server_certificate(home, ("0.0.0.0", "10.1.2.3", "bus.example.org"))
    assert (folder / "server.pem").read_bytes() == first
    assert client_context(folder / "ca.pem").verify_mode is ssl.CERT_REQUIRED


def test_other_addresses_or_old_age_make_a_new_certificate_of_the_same_authority(tmp_path, monkeypatch):
    home = create_home(tmp_path / "home")
    folder = home.path / "tls"
    ensure_server_certificate(home, ("10.1.2.3",))
    authority, first = (folder / "ca.pem").read_bytes(), (folder / "server.pem").read_bytes()
    ensure_server_certificate(home, ("10.9.9.9",))
    second = (folder / "server.pem").read_bytes()
    assert second != first
    monkeypatch.setattr("fleetlog_runtime.shell.tls.RENEW_DAYS", 1_000)
    ensure_server_certificate(home, ("10.9.9.9",))
    assert (folder / "server.pem").read_bytes() != second
    assert (folder / "ca.pem").read_bytes() == authority
    left = x509.load_pem_x509_certificate(authority).not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert left > dt.timedelta(days=3_000)


def test_the_binary_given_must_be_a_program(tmp_path):
    with pytest.raises(ServerError, match="not a program"):
        find_binary(tmp_path / "nothing")
    assert find_binary().name == "nats-server"


def test_without_a_server_installed_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(supervisor.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServerError, match=r"fleetlog\[server\]"):
        find_binary()


@pytest.mark.parametrize(
    ("address", "loopback"), [("127.0.0.1", True), ("127.5.5.5", True), ("localhost", True), ("::1", True),
                              ("0.0.0.0", False), ("10.0.0.1", False), ("::", False)],
)
def test_only_loopback_addresses_go_without_tls(tmp_path, address, loopback):
    assert is_loopback(address) is loopback
    assert NatsServer(create_home(tmp_path / "home"), listen=address).tls is not loopback


def test_the_configuration_syncs_always_and_monitors_on_loopback_only(tmp_path):
    home = create_home(tmp_path / "a folder with \"quotes\"")
    text = server_config(home, listen="0.0.0.0", port=1, monitor_port=2, file_bytes_max=3, tls=True)
    assert "sync_interval: always" in text
    assert 'http: "127.0.0.1:2"' in text
    assert "cert_file" in text
    for name in ("operator", "account-core", "account-agents", "account-sys", "agents-scope"):
        assert home.seed(name).decode() not in text


def test_every_stream_reserves_bytes_and_only_the_log_forbids_deletion():
    made = [streams.stream_config(stream, 1) for stream in subjects.STREAMS]
    assert all(config["max_bytes"] > 0 and config["allow_direct"] for config in made)
    assert [config["name"] for config in made if config["deny_delete"]] == ["EVENTS"]


def test_only_reports_are_confirmed_before_they_are_on_disk():
    made = [streams.stream_config(stream, 1) for stream in subjects.STREAMS]
    assert [config["name"] for config in made if config.get("persist_mode") == "async"] == ["REPORTS"]


def test_a_stream_of_an_earlier_version_keeps_how_it_is_synced():
    reports = next(stream for stream in subjects.STREAMS if stream.name == subjects.REPORTS)
    config = streams.stream_config(reports, 1)
    earlier = {key: value for key, value in config.items() if key != "persist_mode"}
    assert asyncio.run(calls_of(config, earlier)) == ["STREAM.INFO.REPORTS"]
    assert asyncio.run(calls_of(config, earlier | {"max_bytes": 2})) == ["STREAM.INFO.REPORTS", "STREAM.UPDATE.REPORTS"]


async def calls_of(config, found):
    """Return what is asked of a server that has the stream as *found*; an update must leave how it is synced alone."""
    calls = []

    class Server:
        async def request(self, subject, body, timeout):
            calls.append(subject.removeprefix("$JS.API."))
            assert "persist_mode" not in json.loads(body)
            return types.SimpleNamespace(data=json.dumps({"config": found}).encode())

    await streams._ensure(Server(), config)
    return calls


def test_the_folder_with_keys_is_not_the_folder_of_the_server(tmp_path):
    home = create_home(tmp_path / "home")
    assert Path(home.creds_path("gateway")).parent.name == "creds"
