"""Task files: names that stay in their place, what runs them, and the fold of their versions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import events, limits
from fleetlog_schemas.codec import Event
from fleetlog_schemas.file_events import FileRemoved, FileSaved
from fleetlog_schemas.files import Files, apply, check_path, file_run_by, interpreter_for, language_of
from fleetlog_schemas.spec import Blob, Script, Shell, SpecError

_seqs = iter(range(1, 1 << 30))


def happened(files: Files, data: events.Data) -> bool:
    seq = next(_seqs)
    return apply(files, Event(id=f"e{seq}", source="/fleetlog/gateway/g1", data=data, time_ms=seq, seq=seq, subject=events.CATALOG, authid="ada"))


def saved(path: str, version: int, sha256: str = "a" * 64) -> FileSaved:
    return FileSaved(path, version, sha256, 10, ("/bin/sh",))


@pytest.mark.parametrize("path", ["a", "a/b.py", "A_b+c-1.0.sh", "x" * 100, "/".join("abcdefgh")])
def test_what_may_be_a_path(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", ".hidden", "a/.git/b", "ends.", "a b", "a\\b", "a\nb", "a\x00", "ü", "é.py", "~", "CON", "a/nul.txt",
     "Com1.py", "x" * 101, "/".join("abcdefghi"), "a" * 50 + ("/" + "b" * 60) * 3, "C:x", "-f"],
)
def test_what_may_not(path: str) -> None:
    with pytest.raises(SpecError):
        check_path(path)


@given(st.text(alphabet=st.sampled_from("ab./\\-_~+ \x00\n\u202e:"), max_size=30) | st.text(max_size=30))
def test_whatever_is_taken_stays_in_its_folder(path: str) -> None:
    try:
        check_path(path)
    except SpecError:
        return
    root = Path(tempfile.gettempdir()).resolve() / "place"
    assert (root / path).resolve().is_relative_to(root)
    assert (root / path).resolve() != root
    assert path.isascii()
    assert path.isprintable()


@pytest.mark.parametrize(
    ("path", "content", "interpreter", "language"),
    [
        ("a.py", "print(1)", ("python3",), "python"),
        ("a.PY", "", ("python3",), "python"),
        ("a", "#!/usr/bin/env python3.11\n", ("/usr/bin/env", "python3.11"), "python"),
        ("a.py", "#!/usr/bin/env -S bash -e\n", ("bash", "-e"), "bash"),
        ("a.sh", "#! /bin/dash\r\n", ("/bin/dash",), "sh"),
        ("deploy.d/a", "echo", ("/bin/sh",), "sh"),
        ("a.rb", "#!/usr/bin/ruby\n", ("/usr/bin/ruby",), ""),
        ("a", "#!\n", ("/bin/sh",), "sh"),
        ("a", "#!/bin/sh 'open\n", ("/bin/sh", "'open"), "sh"),
    ],
)
def test_what_runs_a_file(path: str, content: str, interpreter: tuple[str, ...], language: str) -> None:
    assert interpreter_for(path, content) == interpreter
    assert language_of(interpreter) == language


def test_a_version_stands_when_it_is_the_next_one_of_its_path_whatever_the_case() -> None:
    files = Files()
    assert happened(files, saved("Tools/a.sh", 1))
    assert not happened(files, saved("tools/A.sh", 1, "b" * 64)), "somebody else made it in the meantime"
    assert happened(files, saved("tools/a.sh", 2, "b" * 64))
    file = files.named("TOOLS/A.SH")
    assert file is not None
    assert (file.path, file.newest.version, file.newest.sha256, file.newest.changed_by) == ("tools/a.sh", 2, "b" * 64, "ada")
    assert [one.version for one in file.versions] == [1, 2]
    assert file.of_version(1) is file.versions[0]
    assert file.of_version(3) is None


def test_a_removed_file_keeps_its_versions_and_its_numbers_go_on() -> None:
    files = Files()
    happened(files, saved("a", 1))
    assert happened(files, FileRemoved("a"))
    assert not happened(files, FileRemoved("a"))
    assert files.present == 0
    assert not happened(files, saved("a", 1))
    assert happened(files, saved("a", 2))
    file = files.named("a")
    assert file is not None
    assert (file.removed, files.present, len(file.versions)) == (False, 1, 2)


def test_only_the_newest_versions_are_kept_in_memory() -> None:
    files = Files()
    for version in range(1, limits.FILE_VERSIONS_MAX + 3):
        happened(files, saved("a", version))
    file = files.named("a")
    assert file is not None
    assert (len(file.versions), file.versions[0].version) == (limits.FILE_VERSIONS_MAX, 3)


def test_of_many_versions_the_longest_histories_are_shortened_and_the_newest_of_each_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_VERSIONS_HELD_MAX", 20)
    files = Files()
    for name, versions in (("long", 15), ("short", 2), *((f"f{number}", 1) for number in range(30))):
        for version in range(1, versions + 1):
            happened(files, saved(name, version))
        held = sum(len(file.versions) for file in files.by_key.values())
        assert files.held == held <= max(20, len(files.by_key)), name
    newest = {path: file.newest.version for path, file in files.by_key.items()}
    assert (newest["long"], newest["short"], newest["f29"]) == (15, 2, 1)
    files = Files()
    for name, versions in (("long", 15), ("short", 2), ("new", 4)):
        for version in range(1, versions + 1):
            happened(files, saved(name, version))
    assert [len(file.versions) for file in files.by_key.values()] == [12, 2, 4], "who has few keeps them"


@pytest.mark.parametrize(
    ("name", "path"), [("jobs/clean.py@4", "jobs/clean.py"), ("clean.py", ""), ("", ""), ("a@b", ""), ("@3", "")],
)
def test_a_task_says_which_file_it_runs(name: str, path: str) -> None:
    assert file_run_by(Script(Blob("a" * 64, 1, name))) == path
    assert not file_run_by(Shell(("true",)))
