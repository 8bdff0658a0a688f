"""The connection to the gateway: kept from one request to the next, and whatever breaks it is said in plain words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def answered(connection: socket.socket) -> bool:
    """Read one request and answer it; False when the other end is gone."""
    read = b""
    while b"\r\n\r\n" not in read:
        data = connection.recv(65_536)
        if not data:
            return False
        read += data
    connection.sendall(ANSWER)
    return True


@contextmanager
def serving(*serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Serve one connection after the other, each by one of these; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as never:
        held: list[socket.socket] = [never]

        def run() -> None:
            for one in serve:
                connection, _ = listener.accept()
                held.append(connection)
                one(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in held:
            connection.close()


def silent_after_one(connection: socket.socket) -> None:
    answered(connection)
    connection.recv(65_536)


def nonsense_after_one(connection: socket.socket) -> None:
    answered(connection)
    connection.recv(65_536)
    connection.sendall(b"this is no HTTP\r\n\r\n")


def closed_after_one(connection: socket.socket) -> None:
    answered(connection)
    connection.close()


@pytest.mark.parametrize(("serve", "says"), [(silent_after_one, "did not answer in 0 s"), (nonsense_after_one, "cannot be reached")])
def test_a_kept_connection_that_breaks_in_an_answer_is_said_and_not_tried_again(serve: Callable[[socket.socket], object], says: str) -> None:
    with serving(serve) as url:
        gateway = Gateway(url, "token", timeout_s=0.3)
        gateway.get("/version")
        with pytest.raises(CliError, match=says) as caught:
            gateway.post("/tasks", {})
        assert caught.value.code is Exit.UNREACHABLE


def test_a_kept_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    with serving(closed_after_one, answered) as url:
        gateway = Gateway(url, "token", timeout_s=5)
        assert [gateway.get("/version"), gateway.get("/version")] == [{}, {}]
