"""The archive's folder: segments written whole or not at all, read back before they count, and a list of them.

Several keepers may share one folder or have one each: they write the same names with the same content.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from fleetlog_runtime.pure import segments
from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_schemas.archive_events import SegmentSealed

MANIFEST = "manifest.json"
LEFT_BEHIND_SECONDS = 3_600
"""A file that was begun and not named within this is of a keeper that died; another may be writing a younger one."""
_HEAD_BYTES = 8_192


class Folder:
    """Segments on this machine's disk."""

    def __init__(self, path: Path) -> None:
        """Stand for the folder at *path*; `prepare` makes it."""
        self.path = path

    def prepare(self) -> None:
        """Make the folder, and remove what a keeper that was killed had begun. Raises OSError."""
        private_folder(self.path)
        for left in self.path.glob(".*.segment.*"):
            if time.time() - left.stat().st_mtime > LEFT_BEHIND_SECONDS:
                left.unlink(missing_ok=True)
        self.list_again()

    def put(self, sealed: SegmentSealed, file: bytes) -> None:
        """Write a segment and read it back. Raises OSError, segments.Damaged."""
        path = self.path / segments.name(sealed.first_seq)
        self._set_aside(path, sealed)
        write_atomic(path, file)
        self.read(sealed)
        self.list_again()

    def _set_aside(self, path: Path, sealed: SegmentSealed) -> None:
        """Keep what is whole and was another log's: of a bus that was restored from a backup, the archive may know more."""
        try:
            there = segments.unpack(path.read_bytes()).head.sealed
        except (OSError, segments.Damaged):
            return
        if there.sha256 != sealed.sha256:
            path.replace(path.with_name(f"{path.name}.replaced-{there.sha256[:8]}"))

    def read(self, sealed: SegmentSealed) -> segments.Segment:
        """Return a segment, checked in whole against what the log says of it. Raises OSError, segments.Damaged."""
        return segments.unpack((self.path / segments.name(sealed.first_seq)).read_bytes(), sealed)

    def has(self, sealed: SegmentSealed) -> bool:
        """Tell whether a file is there that says to be this segment; its content is not looked at."""
        try:
            with (self.path / segments.name(sealed.first_seq)).open("rb") as file:
                return segments.read_head(file.read(_HEAD_BYTES))[0].sealed == sealed
        except (OSError, segments.Damaged):
            return False

    def heads(self) -> list[segments.Head]:
        """Return what the files say of themselves, in their order; one that says nothing is left out."""
        found = []
        for path in sorted(self.path.glob("*.segment")):
            if segments.first_seq_of(path.name) is None:
                continue
            try:
                with path.open("rb") as file:
                    found.append(segments.read_head(file.read(_HEAD_BYTES))[0])
            except segments.Damaged:
                continue
        return found

    def list_again(self) -> None:
        """Write the list of segments anew from the files: it is for people and backups, no reader rests on it."""
        write_atomic(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(self.heads()), indent=1))
