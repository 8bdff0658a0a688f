"""Who this host is and whom it trusts: `identity.toml`, made when it joins and only read afterwards."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import msgspec

from fleetlog_runtime.shell.files import write_atomic


class IdentityError(Exception):
    """The folder is not that of a joined agent; the message says what to do."""


class Identity(msgspec.Struct, frozen=True):
    """What joining left behind. The bus credentials stand beside it in `creds`."""

    host_id: str
    name: str
    nats_urls: tuple[str, ...]
    signing_keys: dict[str, str]
    """Whom to obey: key id to base64, pinned at join; sessions may replace them by newer ones."""
    gateway: str = ""


def default_folder() -> Path:
    """Return where an agent lives unless `--data` says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/fleetlog-agent")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "fleetlog-agent"


def read_identity(folder: Path) -> Identity:
    """Return the identity of an agent's folder. Raises IdentityError."""
    path = folder / "identity.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Identity)
    except FileNotFoundError:
        raise IdentityError(
            f"{folder} is not the folder of a joined agent: paste the line that `fleetlog host add NAME` prints,"
            " or name another folder with --data"
        ) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise IdentityError(f"{path} cannot be read: {error}") from None


def write_identity(folder: Path, identity: Identity) -> None:
    """Write `identity.toml`, readable by its owner only."""
    # A JSON string without control characters is a TOML basic string; json.dumps escapes those.
    lines = [
        "# Made by `fleetlog agent join`. Whoever has this folder is this host: do not copy it.",
        f"host_id = {json.dumps(identity.host_id)}",
        f"name = {json.dumps(identity.name)}",
        f"gateway = {json.dumps(identity.gateway)}",
        f"nats_urls = {json.dumps(list(identity.nats_urls))}",
        "[signing_keys]",
        *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in identity.signing_keys.items()),
    ]
    write_atomic(folder / "identity.toml", ("\n".join(lines) + "\n").encode())
