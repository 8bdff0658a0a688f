"""Output files that are used again: only what is empty, and nobody's any more."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetlog_agent.journal_records import Key
from fleetlog_agent.output_files import OutputFiles, is_silent

KEY = Key("task", 1)
STREAMS = ("stdout", "stderr")


def write(prefix: str, **texts: str) -> None:
    """Open both outputs as an attempt does, and write."""
    for stream in STREAMS:
        with Path(f"{prefix}.{stream}").open("a") as file:
            file.write(texts.get(stream, ""))


def inodes(prefix: str) -> list[int]:
    return [Path(f"{prefix}.{stream}").stat().st_ino for stream in STREAMS]


def test_the_files_of_a_silent_attempt_are_those_of_the_next_one_of_its_slot(tmp_path: Path) -> None:
    files = OutputFiles(str(tmp_path))
    prefix = files.give(3)
    write(prefix)
    before = inodes(prefix)
    assert is_silent(prefix)
    files.take_back(prefix, 3, read=False)
    assert files.give(3) == prefix
    assert inodes(prefix) == before
    assert files.give(4) != prefix


@pytest.mark.parametrize("stream", STREAMS)
def test_what_was_written_is_not_found_by_the_next_attempt(tmp_path: Path, stream: str) -> None:
    files = OutputFiles(str(tmp_path))
    prefix = files.give(0)
    write(prefix, **{stream: "secret"})
    assert not is_silent(prefix)
    files.take_back(prefix, 0, read=False)
    assert not list(tmp_path.iterdir())
    write(files.give(0))
    assert is_silent(prefix)


def test_what_an_attempt_left_running_does_not_write_into_the_files_of_the_next(tmp_path: Path) -> None:
    files = OutputFiles(str(tmp_path))
    prefix = files.give(0)
    write(prefix)
    with Path(f"{prefix}.stdout").open("a") as stdout:
        left = subprocess.Popen(["/bin/sh", "-c", "read line; echo late"], stdin=subprocess.PIPE, stdout=stdout)
    files.take_back(prefix, 0, read=False)
    write(files.give(0))
    left.communicate(b"now\n")
    assert is_silent(prefix)


def test_files_with_notes_on_what_was_sent_are_not_used_again(tmp_path: Path) -> None:
    files = OutputFiles(str(tmp_path))
    prefix = files.give(0)
    write(prefix)
    Path(f"{prefix}.frames").write_bytes(b"noted")  # of output that the attempt itself has cut off since
    files.take_back(prefix, 0, read=True)
    assert not list(tmp_path.iterdir())


def test_a_new_agent_takes_no_files_for_fit_that_it_did_not_see_end(tmp_path: Path) -> None:
    prefix = OutputFiles(str(tmp_path)).give(0)
    write(prefix, stdout="of the former agent's attempt")
    assert OutputFiles(str(tmp_path)).give(0) == prefix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("named", "prefix"), [(lambda folder: f"{folder}/{KEY}", f"{KEY}"), (lambda folder: f"{folder}/5", "5")], ids=["by attempt", "by slot"]
)
def test_an_attempt_that_an_earlier_version_started_is_found_under_its_name(
    tmp_path: Path, named: Callable[[Path], str], prefix: str
) -> None:
    write(named(tmp_path), stdout="written")
    files = OutputFiles(str(tmp_path))
    found = files.find(KEY, 5)
    assert found == str(tmp_path / prefix)
    files.take_back(found, 5, read=True)
    assert not list(tmp_path.iterdir())


def test_what_ended_attempts_left_is_swept_and_what_is_under_way_is_not(tmp_path: Path) -> None:
    names = {"1.stdout", "1.frames", f"{KEY}.script", f"{KEY}.stdout", f"{KEY}.work", "2.stdout", "other.1.script", "other.1.stderr"}
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "other.1.work").mkdir()
    (tmp_path / "link.1.work").symlink_to("/")
    files = OutputFiles(str(tmp_path))
    assert files.sweep({KEY: 1}) == [str(tmp_path / "other.1.work")]
    left = {"1.stdout", "1.frames", f"{KEY}.script", f"{KEY}.stdout", f"{KEY}.work", "other.1.work"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert files.bytes_on_disk() == sum(path.lstat().st_blocks * 512 for path in tmp_path.iterdir())


def test_a_process_is_not_ended_by_somebody_who_opens_such_a_file_meanwhile(tmp_path: Path) -> None:
    OutputFiles(str(tmp_path))
    os.kill(os.getpid(), signal.SIGIO)  # by default it ends the process
