"""What a build leaves is found by its rules, and a folder is always the same tar."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_agent.artifacts import Artifacts, Found, KeepFailed, Unwanted, find, open_within, write_tar
from fleetlog_agent.journal_records import Key
from fleetlog_agent.output import NotStored
from fleetlog_schemas.builds import ArtifactRule
from fleetlog_schemas.limits import ARTIFACT_CHUNK_BYTES
from fleetlog_schemas.reports import ArtifactChunk


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def tar_of(folder: Path) -> bytes:
    file, descriptor = io.BytesIO(), os.open(folder, os.O_RDONLY)
    write_tar(descriptor, folder.name, file)
    os.close(descriptor)
    return file.getvalue()


def test_rules_find_files_patterns_and_nothing_hidden(tmp_path: Path, root: int) -> None:
    for path in ("dist/a.deb", "dist/b.deb", "dist/.c.deb", "dist/d.txt", "app"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "dist" / "link.deb").symlink_to("/etc/passwd")
    found = find(root, (ArtifactRule("*/*.deb"), ArtifactRule("app", name="tool"), ArtifactRule("no", optional=True)))
    assert found == [Found("a.deb", "dist/a.deb"), Found("b.deb", "dist/b.deb"), Found("tool", "app")]


@pytest.mark.parametrize(("path", "why"), [("no", "is missing"), ("no*", "is missing"), ("link/file", "link is a link"), ("a b", "its name")])
def test_what_cannot_be_kept_is_said(path: str, why: str, tmp_path: Path, root: int) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "a b").touch()
    with pytest.raises(KeepFailed, match=why):
        find(root, (ArtifactRule(path),))


def test_no_link_is_followed_at_any_step_of_a_path(tmp_path: Path, root: int) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(KeepFailed, match="secret is a link"):
        open_within(root, "inside/secret")


def test_the_same_content_is_the_same_tar_whenever_it_was_made(tmp_path: Path) -> None:
    tars = []
    for name, made in (("one", ("b", "a")), ("two", ("a", "b"))):
        for file in made:
            path = tmp_path / name / "sub" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
            os.utime(path, (len(tars), len(tars)))
        (tmp_path / name / "link").symlink_to("sub/a")
        tars.append(tar_of(tmp_path / name))
    assert tars[0] == tars[1]
    (tmp_path / "two" / "sub" / "a").chmod(0o755)
    assert tar_of(tmp_path / "two") != tars[0], "whether it can be run is content"


@pytest.mark.parametrize("target", ["/etc", "../../out", "sub/../../out"])
def test_a_link_that_leads_out_of_a_kept_folder_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "link").symlink_to(target)
    with pytest.raises(KeepFailed, match="leads out of it"):
        tar_of(tmp_path / "kept")


@pytest.mark.parametrize(("why", "said"), [("cancelled", "it was cancelled"), ("timeout", "its time was over")])
def test_sending_ends_at_the_next_piece_when_nothing_more_is_to_be_kept(why: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(8 * ARTIFACT_CHUNK_BYTES))
    stored: list[int] = []

    async def store(chunk: ArtifactChunk, _upload: str) -> int:
        stored.append(chunk.offset)
        return len(stored)

    artifacts = Artifacts(str(tmp_path), store, available=lambda: True)
    with pytest.raises(Unwanted, match=f"{said} while its artifacts were sent \\(big up to byte ") as caught:
        asyncio.run(artifacts.keep(Key("t", 1), str(tmp_path), (ArtifactRule("big"),), lambda: why if len(stored) == 2 else ""))
    assert (caught.value.why, len(stored)) == (why, 2)


def test_a_cancel_reaches_what_waits_for_the_bus(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("x")
    asked = 0

    async def store(_chunk: ArtifactChunk, _upload: str) -> int:
        nonlocal asked
        asked += 1
        raise NotStored("the bus is away")

    artifacts = Artifacts(str(tmp_path), store, available=lambda: False)
    with pytest.raises(Unwanted):
        asyncio.run(artifacts.keep(Key("t", 1), str(tmp_path), (ArtifactRule("one"),), lambda: "cancelled" if asked else ""))
