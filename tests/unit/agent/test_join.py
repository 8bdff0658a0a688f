"""Joining: the key stays here, only the pinned server is believed, and every refusal says what to do."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fleetlog_agent.identity import IdentityError, read_identity
from fleetlog_agent.join import JoinError, join
from fleetlog_agent.main import agent_main
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_auth import host_id_of
from fleetlog_runtime.shell.tls import ensure_server_certificate


class Gateway(BaseHTTPRequestHandler):
    """The two requests of joining, as the gateway answers them."""

    asked: ClassVar[list[dict[str, Any]]] = []
    refuse = ""
    pem = ""

    def do_GET(self) -> None:
        self._answer(200, {"pem": self.pem, "sha256": "what anybody may claim"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if self.refuse:
            self._answer(403, {"title": "Forbidden", "detail": self.refuse})
            return
        self._answer(
            201,
            {
                "host_id": host_id_of(body["public_key"]), "name": 'web"1', "user_jwt": "eyJ", "nats_ca": self.pem,
                "nats_urls": ["tls://10.0.0.1:4222"], "signing_keys": {"k1": "cHVibGlj"},
            },
        )

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(handler: type[Gateway], tls: Path | None = None) -> Iterator[str]:
    handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A server certificate and the authority that signed it."""
    home = Home(tmp_path / "home")
    home.path.mkdir()
    ensure_server_certificate(home, ())
    return home.path / "tls"


def test_a_host_joins_and_keeps_its_key_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "agent"
    with serving(Gateway) as url:
        assert agent_main(["join", url, "--token", "fltj_x", "--data", str(folder), "--no-start"]) == 0
    assert 'joined as web"1' in capsys.readouterr().out
    identity = read_identity(folder)
    assert (identity.name, identity.nats_urls, identity.signing_keys) == ('web"1', ("tls://10.0.0.1:4222",), {"k1": "cHVibGlj"})
    seed = (folder / "creds").read_text().split("SEED-----\n")[1].split("\n")[0]
    assert seed.startswith("SU")
    assert seed not in json.dumps(Gateway.asked)
    for name in ("identity.toml", "creds"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_after_a_refusal_the_same_folder_joins_with_the_same_key(tmp_path: Path) -> None:
    class Refusing(Gateway):
        refuse = "this join token was already used"

    with serving(Refusing) as url, pytest.raises(JoinError, match="already used"):
        join(tmp_path / "agent", url, "t")
    first = Refusing.asked[0]["public_key"]
    with serving(Gateway) as url:
        join(tmp_path / "agent", url, "t")
    assert Gateway.asked[0]["public_key"] == first


def test_the_authority_is_believed_by_its_fingerprint_alone(tmp_path: Path, authority: Path) -> None:
    class Pinned(Gateway):
        pem = (authority / "ca.pem").read_text()

    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Pinned.pem)).hexdigest()
    with serving(Pinned, authority) as url:
        with pytest.raises(JoinError, match="somebody is in between"):
            join(tmp_path / "one", url, "t", "0" * 64)
        with pytest.raises(JoinError, match="cannot be reached"):
            join(tmp_path / "two", url, "t")
        assert Pinned.asked == [], "the token was not shown to anybody"
        join(tmp_path / "three", url, "t", fingerprint)
    assert (tmp_path / "three" / "ca.pem").read_text() == Pinned.pem


def test_a_server_that_shows_the_right_authority_but_is_not_signed_by_it_is_refused(
    tmp_path: Path, authority: Path
) -> None:
    other = Home(tmp_path / "other")
    other.path.mkdir()
    ensure_server_certificate(other, ())

    class Imposter(Gateway):
        pem = (authority / "ca.pem").read_text()

    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Imposter.pem)).hexdigest()
    with serving(Imposter, other.path / "tls") as url, pytest.raises(JoinError, match="cannot be reached"):
        join(tmp_path / "agent", url, "t", fingerprint)
    assert Imposter.asked == []


@pytest.mark.parametrize(
    ("url", "pin", "why"),
    [
        ("http://fleet.example:80", "", "plain http"), ("ftp://x", "", "not the address"), ("nonsense", "", "not the address"),
        ("https://127.0.0.1:1", "abc", "64 hexadecimal"), ("http://127.0.0.1:1", "", "cannot be reached"),
    ],
)
def test_a_bad_line_is_refused_with_what_to_do(tmp_path: Path, url: str, pin: str, why: str) -> None:
    with pytest.raises(JoinError, match=why):
        join(tmp_path / "agent", url, "t", pin)


def test_a_folder_that_joined_is_not_joined_again(tmp_path: Path) -> None:
    with serving(Gateway) as url:
        join(tmp_path / "agent", url, "t")
        with pytest.raises(JoinError, match="joined already"):
            join(tmp_path / "agent", url, "t")


def test_running_a_folder_that_never_joined_says_what_to_paste(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent_main(["status", "--data", str(tmp_path)]) == 1
    assert "fleetlog host add" in capsys.readouterr().err
    with pytest.raises(IdentityError):
        read_identity(tmp_path)
