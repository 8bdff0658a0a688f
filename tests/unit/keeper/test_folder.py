"""Segments on the disk: read back before they count, listed for people, and nothing whole is ever overwritten."""

from __future__ import annotations

import json

import pytest

from fleetlog_keeper.folder import Folder
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import chain


def packed(*bodies: bytes, first: int = 1, before: str = chain.START):
    return segments.pack([Stored(first + n, "evt.host", n, body) for n, body in enumerate(bodies)], before)


@pytest.fixture
def folder(tmp_path) -> Folder:
    made = Folder(tmp_path / "archive")
    made.prepare()
    return made


def test_a_segment_that_was_put_is_read_and_listed(folder):
    first, file = packed(b"a", b"b")
    second, next_file = packed(b"c", first=3, before=first.chain_head)
    folder.put(first, file)
    folder.put(second, next_file)
    assert folder.read(first).messages[1].body == b"b"
    assert folder.has(second)
    listed = json.loads((folder.path / "manifest.json").read_text())
    assert [one["sealed"]["first_seq"] for one in listed] == [1, 3]
    assert segments.joined(folder.heads()) == ""
    assert (folder.path / segments.name(1)).stat().st_mode & 0o777 == 0o600


def test_the_list_is_made_again_from_the_files(folder):
    sealed, file = packed(b"a")
    folder.put(sealed, file)
    (folder.path / "manifest.json").write_text("nonsense")
    (folder.path / "notes.segment").write_text("not ours")
    folder.prepare()
    assert len(json.loads((folder.path / "manifest.json").read_text())) == 1


def test_a_damaged_file_is_replaced_and_a_whole_one_of_another_log_is_kept(folder):
    sealed, file = packed(b"a")
    path = folder.path / segments.name(1)
    path.write_bytes(file[:-1])
    folder.put(sealed, file)
    assert [one.name for one in folder.path.glob("0*")] == [path.name]
    other, other_file = packed(b"b")
    folder.put(other, other_file)
    assert folder.read(other).messages[0].body == b"b"
    (aside,) = folder.path.glob("*.replaced-*")
    assert aside.read_bytes() == file
    # The same once more is no other.
    folder.put(other, other_file)
    assert len(list(folder.path.glob("*.replaced-*"))) == 1


def test_a_file_that_only_claims_to_be_a_segment_is_found_when_it_is_read(folder):
    sealed, file = packed(b"a" * 100)
    (folder.path / segments.name(1)).write_bytes(file[:-3])
    assert folder.has(sealed)
    with pytest.raises(segments.Damaged):
        folder.read(sealed)
