"""The archive is checked and read with nothing else running."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleetlog.exits import Exit
from fleetlog.main import main
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import chain


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No system is anywhere near."""
    for name in ("FLEETLOG_URL", "FLEETLOG_TOKEN", "FLEETLOG_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLEETLOG_DATA", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "copy"
    made.mkdir()
    before = chain.START
    for first in (1, 4):
        messages = [Stored(first + n, "evt.host", 1_800_000_000_000 + n, b'{"n":%d}' % (first + n)) for n in range(3)]
        sealed, file = segments.pack(messages, before)
        (made / segments.name(first)).write_bytes(file)
        before = sealed.chain_head
    return made


def test_a_whole_archive_is_found_whole_without_the_log(folder, capsys):
    assert main(["archive", "verify", "--folder", str(folder)]) == Exit.OK
    said = capsys.readouterr()
    assert "2 segments" in said.out
    assert "but not with the log, through sequence 6" in said.out
    assert "not compared with the log" in said.err


def test_damage_a_hole_and_a_wrong_name_are_found_and_fail(folder, capsys):
    path = folder / segments.name(4)
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["archive", "verify", "--folder", str(folder)]) == Exit.INTERNAL
    assert "0000000000000004.segment is damaged" in capsys.readouterr().out
    path.unlink()
    (folder / segments.name(1)).rename(path)
    assert main(["archive", "verify", "--folder", str(folder)]) == Exit.INTERNAL
    assert "holds the segment that begins at 1" in capsys.readouterr().out


def test_a_missing_first_segment_is_a_hole(folder, capsys):
    (folder / segments.name(1)).unlink()
    assert main(["archive", "verify", "--folder", str(folder)]) == Exit.INTERNAL
    assert "sequences 1 to 3 are in no segment" in capsys.readouterr().out


def test_archived_events_are_read_as_lines_across_segments(folder, capsys):
    assert main(["archive", "read", "--folder", str(folder), "3", "--limit", "3"]) == Exit.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["seq"], one["event"]["n"]) for one in lines] == [(3, 3), (4, 4), (5, 5)]
    assert lines[0]["stored_at"] == "2027-01-15T08:00:00.002Z"


def test_a_folder_that_is_not_there_says_what_to_do(tmp_path, capsys):
    assert main(["archive", "verify", "--folder", str(tmp_path / "none")]) == Exit.NOT_FOUND
    assert "--folder" in capsys.readouterr().err
