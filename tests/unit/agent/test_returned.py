"""What a command leaves in the file of its return value: JSON within a limit, secrets hidden, nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleetlog_agent.masking import Masker
from fleetlog_agent.returned import read
from fleetlog_schemas.limits import RETURN_VALUE_BYTES_MAX

PLAIN = Masker(())


def test_a_command_that_left_nothing_returned_nothing(tmp_path: Path) -> None:
    (tmp_path / "blank").write_text(" \n")
    assert read(str(tmp_path / "none"), PLAIN) == (None, "")
    assert read(str(tmp_path / "blank"), PLAIN) == (None, "")


@pytest.mark.parametrize("text", ['{"a": [1, null]}', '"text"', "3", "true", ' [1]\n'])
def test_any_json_is_a_value(tmp_path: Path, text: str) -> None:
    (tmp_path / "value").write_text(text)
    assert read(str(tmp_path / "value"), PLAIN) == (text.strip(), "")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"hello", "no JSON"), (b'"\xff"', "no JSON"), (b"[" * 10_000, "no JSON"),
        (b'"' + b"x" * RETURN_VALUE_BYTES_MAX + b'"', "more than"),
    ],
)
def test_what_is_no_value_is_not_kept_and_said(tmp_path: Path, body: bytes, says: str) -> None:
    (tmp_path / "value").write_bytes(body)
    value, wrong = read(str(tmp_path / "value"), PLAIN)
    assert value is None
    assert says in wrong


def test_secrets_are_hidden_in_what_is_returned(tmp_path: Path) -> None:
    (tmp_path / "value").write_text('{"password": "hunter2!"}')
    assert read(str(tmp_path / "value"), Masker(["hunter2!"])) == ('{"password": "********"}', "")
    assert read(str(tmp_path / "value"), None)[0] is None


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    assert read(str(tmp_path / "link"), PLAIN)[0] is None
    assert read(str(tmp_path / "pipe"), PLAIN) == (None, "what it returned is no file")
