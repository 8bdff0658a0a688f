"""Definitions on the real system: what two people, a secret and a hostile value do."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_testing.fleet import Fleet
from fleetlog_testing.typed_page import Operator

HOSTILE = "; touch pwned $(touch pwned) `touch pwned` \n touch pwned -- -o ${IFS} {{7*7}} '\""
SECRET = "hunter2-canary-value"
GREET = """
name = "greet"
target = "web01"
argv = ["/bin/sh", "-c", 'printf "<%s> <%s>" "$FLEETLOG_PARAM_WHO" "$FLEETLOG_PARAM_TOKEN"']

[parameters.who]
[parameters.token]
type = "secret"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    running = Fleet(folder, separate=False)
    try:
        yield running
    finally:
        running.close()


def assert_nothing_was_touched(folder: Path) -> None:
    assert not list(folder.rglob("pwned"))


def test_a_hostile_value_stays_a_value_and_a_secret_is_nowhere(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "greet.toml").write_text(GREET)
    (tmp_path / "secret").write_text(SECRET + "\n")

    async def scenario() -> None:
        await fleet.start("web01")
        operator = Operator(fleet, tmp_path)
        operator.type("fleetlog definition push greet.toml")
        said = operator.type(f"fleetlog run greet -p {shlex.quote('who=' + HOSTILE)} --secret token=@secret")
        assert "success" in said, said
        written = operator.type("fleetlog output last")
        assert f"<{HOSTILE}>" in written
        assert SECRET not in written, "the agent masks it"
        log = operator.type("fleetlog events --limit 500 -o json")
        assert "FLEETLOG_PARAM_TOKEN" in log
        assert SECRET not in log + operator.type("fleetlog show -o json") + (fleet.folder / "up.log").read_text()
        assert_nothing_was_touched(tmp_path)
        # A second who changes the same version is told, and his file stays as it was.
        (tmp_path / "mine").mkdir()
        operator.type("fleetlog definition pull greet --to mine")
        theirs, mine = tmp_path / "greet.toml", tmp_path / "mine" / "greet.toml"
        theirs.write_text(theirs.read_text().replace("<%s> <%s>", "[%s] [%s]"))
        assert "is now version 2" in operator.type("fleetlog definition push greet.toml")
        mine.write_text(before := mine.read_text().replace("<%s> <%s>", "{%s} {%s}"))
        said_late = operator.type("fleetlog definition push mine --message late")
        assert "the file says version 1 of greet, and by now it is 2, changed by owner" in said_late
        assert mine.read_text() == before
        assert "is now version 3" in operator.type("fleetlog definition push mine --force")
        # What the folder does not have goes only after it was shown.
        (tmp_path / "mine" / "greet.toml").rename(tmp_path / "mine" / "hello.toml")
        hello = tmp_path / "mine" / "hello.toml"
        hello.write_text(re.sub(r"^version.*\n", "", hello.read_text(), flags=re.MULTILINE).replace('"greet"', '"hello"'))
        refused = operator.type("fleetlog definition push mine --prune")
        assert "to be removed: greet version 3" in refused
        assert "say --yes" in refused
        assert "greet is removed" in operator.type("fleetlog definition push mine --prune --yes")
        assert "greet" not in operator.type("fleetlog definition ls")

    asyncio.run(scenario())
