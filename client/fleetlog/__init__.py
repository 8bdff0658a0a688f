"""The command line `fleetlog` and the Python client.

`from fleetlog import Client` is the whole public interface; it is loaded on first use, so that the command line
starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetlog.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from fleetlog.client import Client

        return Client
    raise AttributeError(f"module 'fleetlog' has no attribute {name!r}")
