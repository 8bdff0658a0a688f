"""Carry what makes a home this system from the first node to the others: keys, credentials, token, authority, sizes.

One JSON file, for its owner only. It holds no event and no state: those come to a node from the others. What it
holds is enough to be the system, so it is as secret as the home itself.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import msgspec

from fleetlog_runtime.shell.files import create_private, private_folder
from fleetlog_runtime.shell.home import Home, HomeError, create_home
from fleetlog_runtime.shell.streams import reservations
from fleetlog_runtime.shell.tls import ensure_authority

FORMAT = 1
BYTES_MAX = 1024 * 1024
"""Some dozens of keys; anything larger is another file."""
_FOLDERS = ("keys", "creds")
_FILES = ("gateway/token", "nats/agents.jwt", "nats/reserved.json", "tls/ca.pem", "tls/ca.key")
_PROOF = "keys/operator.seed"
"""Two homes with this in common are of one system."""


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    fleetlog_keys: int
    files: dict[str, bytes]


def export_keys(folder: Path, file: Path) -> int:
    """Write the bundle of a home, making the home if there is none yet, and return how many files it holds.

    Raises:
        HomeError: the home or the file cannot be written, or the file is there already.
    """
    home = create_home(folder)
    reservations(home)
    try:
        ensure_authority(private_folder(home.path / "tls"))
    except ImportError:
        raise HomeError("nodes prove themselves by TLS: pip install 'fleetlog[server]'") from None
    names = [f"{part}/{path.name}" for part in _FOLDERS for path in sorted((home.path / part).iterdir())]
    names = [name for name in (*names, *_FILES) if not Path(name).name.startswith(".")]
    try:
        bundle = Bundle(FORMAT, {name: (home.path / name).read_bytes() for name in names})
        written = create_private(file, msgspec.json.encode(bundle))
    except OSError as error:
        raise HomeError(f"cannot write {file}: {error.strerror} ({error.filename})") from None
    if not written:
        raise HomeError(f"{file} is there already: remove it, or name another file")
    return len(names)


def import_keys(folder: Path, file: Path) -> Home:
    """Make a home with the keys of a bundle and return it; done twice, it changes nothing.

    Raises:
        HomeError: the file is no bundle, the folder belongs to another system, or its disk is too small.
    """
    bundle = _read(file)
    home = Home(folder)
    _check_room(home, bundle.files["nats/reserved.json"])
    for name, body in bundle.files.items():
        path = home.path / name
        try:
            if path.exists() and path.read_bytes() != body:
                raise HomeError(
                    f"{home.path} holds other keys than {file} ({name}): it is of another system."
                    " Name an empty folder with --data, or move this one away"
                )
            # The token says that a home is whole, so it comes last, with what create_home makes.
            if name != "gateway/token":
                private_folder(path.parent)
                create_private(path, body)
        except OSError as error:
            raise HomeError(f"cannot write {path}: {error.strerror}") from None
    with contextlib.suppress(OSError):
        private_folder(home.path)
        home.path.chmod(0o700)
    private_folder(home.path / "gateway")
    create_private(home.path / "gateway" / "token", bundle.files["gateway/token"])
    return create_home(folder)


def _check_room(home: Home, reserved: bytes) -> None:
    """Refuse a disk that is too small for what the first node reserved: every node keeps a copy of everything."""
    needed = sum(msgspec.json.decode(reserved, type=dict[str, int]).values())
    there = next(path for path in (home.path, *home.path.parents) if path.exists())
    size = shutil.disk_usage(there).total
    if size < needed:
        raise HomeError(
            f"the disk of {there} has {size // 1024**3} GiB, and the first node reserved {needed // 1024**3} GiB for the streams:"
            " name a folder on a larger disk with --data"
        )


def _read(file: Path) -> Bundle:
    try:
        if file.stat().st_size > BYTES_MAX:
            raise HomeError(f"{file} is too large for keys: it is another file")
        bundle = msgspec.json.decode(file.read_bytes(), type=Bundle)
    except OSError as error:
        raise HomeError(f"cannot read {file}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise HomeError(f"{file} is not what `fleetlog node export` wrote: {error}") from None
    if bundle.fleetlog_keys != FORMAT:
        raise HomeError(f"{file} is of version {bundle.fleetlog_keys}, this fleetlog reads {FORMAT}: install the same version")
    bad = [name for name in bundle.files if not _expected(name)]
    lacking = [name for name in (_PROOF, *_FILES) if name not in bundle.files]
    if bad or lacking:
        raise HomeError(f"{file} is not what `fleetlog node export` wrote: {(bad or lacking)[0]!r}")
    return bundle


def _expected(name: str) -> bool:
    part, slash, rest = name.partition("/")
    plain = bool(slash) and "/" not in rest and not rest.startswith(".") and rest != ""
    return name in _FILES or (part in _FOLDERS and plain)
