"""What is said of a program that could not be started."""

from __future__ import annotations

import errno

from fleetlog_agent.launch import error_text


def said_of(program: str) -> str:
    return error_text(FileNotFoundError(errno.ENOENT, "gone", program), {"argv": [program]})


def test_a_word_of_the_shell_is_told_from_a_program_that_is_not_there() -> None:
    assert "'cd' was not found on this host; it is a word of the shell: run it with -c (PATH is" in said_of("cd")
    assert "'unmae' was not found on this host (PATH is" in said_of("unmae")
