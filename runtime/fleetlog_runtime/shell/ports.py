"""Ports of this machine: whether somebody listens on one, and one that nobody uses."""

from __future__ import annotations

import errno
import socket


def free_port(listen: str) -> int:
    """Return a port of *listen* that nobody uses."""
    with _socket(listen) as probe:
        probe.bind((listen, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(listen: str, port: int) -> bool:
    """Tell whether nobody listens there. Raises OSError when it is no address of this machine."""
    with _socket(listen) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


def _socket(listen: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET)
