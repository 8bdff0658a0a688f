"""Where the gateway is: its address, token and CA, from flags, environment or the data folder, in this order.

Only files are read here: the command line must start without loading what serves the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from fleetlog.exits import CliError, Exit


class Place:
    """One gateway, and the data folder it may live in."""

    def __init__(self, data: str | None, url: str | None) -> None:
        self.folder = data_folder(data)
        self._url = url or os.environ.get("FLEETLOG_URL", "")

    @property
    def url(self) -> str:
        """Return the gateway's address.

        Raises:
            CliError: nothing says where it is.
        """
        if self._url:
            return self._url.rstrip("/")
        try:
            return (self.folder / "gateway" / "url").read_text().strip().rstrip("/")
        except FileNotFoundError:
            raise CliError(
                Exit.UNREACHABLE,
                f"no gateway has been started in {self.folder}",
                "start one with `fleetlog up`, or name one with --data, --url or FLEETLOG_URL",
            ) from None
        except OSError as error:
            raise CliError(Exit.REFUSED, f"cannot read {error.filename}: {error.strerror}") from None

    @property
    def token(self) -> str:
        """Return the bearer token, or an empty text when there is none."""
        token = os.environ.get("FLEETLOG_TOKEN", "")
        if token:
            return token.strip()
        try:
            return (self.folder / "gateway" / "token").read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise CliError(
                Exit.REFUSED, f"cannot read {error.filename}: {error.strerror}",
                "run as the user who owns the data folder, or set FLEETLOG_TOKEN",
            ) from None

    @property
    def ca(self) -> Path | None:
        """Return the CA certificate that the gateway's must be signed by, or None for the system's."""
        given = os.environ.get("FLEETLOG_CA", "")
        path = Path(given) if given else self.folder / "tls" / "ca.pem"
        return path if path.is_file() else None


def data_folder(given: str | None) -> Path:
    """Return the data folder: the flag's, FLEETLOG_DATA's, or `fleetlog` in the user's data home."""
    chosen = given or os.environ.get("FLEETLOG_DATA", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data_home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "fleetlog"
