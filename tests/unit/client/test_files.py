"""Task files on the command line: an editor's text is never lost, and a pull never leaves its folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError
from fleetlog.verbs import files

KNOWN = {"path": "jobs/clean.sh", "version": 2}


class Served:
    """A server with one file, which somebody else may have changed."""

    def __init__(self, refusal: GatewayError | None = None) -> None:
        self.refusal = refusal
        self.saved: list[tuple[str, str]] = []
        self.asked: list[Any] = []

    def get(self, path: str, **_: Any) -> Any:
        return {"data": KNOWN}

    def get_bytes(self, path: str, **query: Any) -> bytes:
        self.asked.append(query)
        return b"echo 1\r\n"

    def put(self, path: str, body: Any, if_match: str) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.saved.append((body["content"], if_match))
        return {"version": 3, "changed": True, "checked": {"language": "sh", "warnings": []}}


class Console:
    """What was typed, and what is printed."""

    json = False

    def __init__(self, gateway: Served, **options: Any) -> None:
        self.gateway, self.options = gateway, argparse.Namespace(message="", file_version=0, **options)
        self.lines: list[str] = []

    def put(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An editor that appends a line, and leaves with what the file `code` says."""
    script = tmp_path / "editor"
    script.write_text(f'#!/bin/sh\n[ -e {tmp_path}/idle ] || echo "echo mine" >> "$1"\nexit $(cat {tmp_path}/code)\n')
    script.chmod(0o755)
    (tmp_path / "code").write_text("0")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(script))
    (tmp_path / "made").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "made"))
    return tmp_path


def edit(served: Served) -> Console:
    console = Console(served, path="jobs/clean.sh")
    files.edit(console)  # type: ignore[arg-type]  # as much of a console as is used
    return console


def test_what_was_edited_is_saved_on_the_version_that_was_opened(editor: Path) -> None:
    served = Served()
    assert edit(served).lines == ["jobs/clean.sh is version 3 now"]
    assert served.saved == [("echo 1\r\necho mine\n", "2")]
    assert not list((editor / "made").iterdir())


def test_a_text_that_cannot_be_saved_is_kept_and_the_error_says_where(editor: Path) -> None:
    refusals = (GatewayError(412, "version-changed", "by now it is 3"), GatewayError(422, "invalid", "line 2: syntax error"))
    for refusal in refusals:
        with pytest.raises(CliError) as refused:
            edit(Served(refusal))
        found = re.search(r"your text is in (\S+): ", refused.value.hint)
        assert found
        assert Path(found[1]).read_bytes() == b"echo 1\r\necho mine\n"


def test_an_editor_that_fails_saves_nothing_and_keeps_the_text(editor: Path) -> None:
    (editor / "code").write_text("1")
    served = Served()
    with pytest.raises(CliError, match="left with 1") as refused:
        edit(served)
    assert "your text is in" in refused.value.hint
    assert served.saved == []


def test_what_was_not_changed_is_not_saved(editor: Path) -> None:
    (editor / "idle").touch()
    served = Served()
    assert edit(served).lines == ["nothing was saved: nothing was changed"]
    assert served.saved == []


def test_a_pull_writes_the_bytes_of_the_version_that_it_says(tmp_path: Path) -> None:
    served = Served()
    console = Console(served, paths=["jobs/clean.sh"], to=str(tmp_path / "to"))
    files.pull(console)  # type: ignore[arg-type]  # as much of a console as is used
    assert (tmp_path / "to/jobs/clean.sh").read_bytes() == b"echo 1\r\n"
    assert served.asked == [{"version": 2}], "of no other version that came in between"


@pytest.mark.parametrize("link", ["jobs", "jobs/clean.sh"])
def test_a_pull_follows_no_link_out_of_its_folder(tmp_path: Path, link: str) -> None:
    (tmp_path / "outside").mkdir()
    place = tmp_path / "to" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "outside" / ("" if link == "jobs" else "target"))
    with pytest.raises(CliError) as refused:
        files.pull(Console(Served(), paths=["jobs/clean.sh"], to=str(tmp_path / "to")))  # type: ignore[arg-type]
    assert refused.value.code is Exit.REFUSED
    assert not list((tmp_path / "outside").iterdir())
