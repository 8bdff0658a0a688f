"""The syntax check: what the languages themselves say, and scripts that bring parsers down."""

from __future__ import annotations

import asyncio

import pytest

from fleetlog_gateway.syntax import Checked, SyntaxFault, check


def found(language: str, content: bytes) -> Checked:
    return asyncio.run(check(language, content))


@pytest.mark.parametrize(
    ("language", "content"),
    [("python", b"import not_there\nexit(3)\n"), ("sh", b"exit 3\n"), ("bash", b"[[ a =~ b ]]\n"), ("python", b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")],
)
def test_what_is_well_formed_is_fine_and_not_run(language: str, content: bytes) -> None:
    assert found(language, content) == Checked(language, None)


def test_a_fault_has_its_place() -> None:
    assert found("python", b"a = 1\nb = = 2\n").fault == SyntaxFault(2, 5, "invalid syntax")
    fault = found("sh", b"if true; then\n").fault
    assert fault is not None
    assert fault.line > 0
    assert "end of file" in fault.message.lower()


@pytest.mark.parametrize("content", [b"(" * 100_000, b"-" * 1_000_000 + b"1", b"\x00", b"x = '\xff'"])
def test_what_a_parser_cannot_bear_is_a_fault_and_never_ours(content: bytes) -> None:
    fault = found("python", content).fault
    assert fault is not None
    assert fault.message


def test_what_cannot_be_checked_says_so_and_a_carriage_return_in_the_first_line_is_warned_of() -> None:
    assert found("", b"anything") == Checked("")
    assert "CR LF" in found("sh", b"#!/bin/sh\r\ntrue\r\n").warnings[0]
