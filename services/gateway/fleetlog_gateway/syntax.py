"""Does a script have the syntax of its language? Asked of the language itself, in a process of its own with limits.

Nothing of the script is run: Python compiles it, a shell reads it with `-n`. What somebody wrote may bring a parser down
(nesting, size), so it is never this process that parses.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys

import msgspec

CHECK_SECONDS_MAX = 5
CHECK_MEMORY_BYTES_MAX = 1024 * 1024 * 1024
CHECKS_AT_ONCE_MAX = 2
"""More wait: each may take a core for some seconds."""
_ERROR_CHARACTERS_MAX = 300
_PYTHON = (
    "import sys, warnings\n"
    "warnings.simplefilter('ignore')\n"
    "try:\n"
    "    compile(sys.stdin.buffer.read(), 'file', 'exec', dont_inherit=True)\n"
    "except SyntaxError as error:\n"
    "    print(error.lineno or 0, error.offset or 0, error.msg)\n"
    "except (ValueError, MemoryError, RecursionError) as error:\n"
    "    print(0, 0, str(error) or type(error).__name__)\n"
)
_LIMITS = f"ulimit -c 0; ulimit -t {CHECK_SECONDS_MAX}; ulimit -v {CHECK_MEMORY_BYTES_MAX // 1024}; "
_LINE = re.compile(r"(?:line )?(\d+): (.*)")
_gate = asyncio.Semaphore(CHECKS_AT_ONCE_MAX)


class SyntaxFault(msgspec.Struct, frozen=True):
    """What is wrong with a script, and where; line and column from 1, 0 where they are not known."""

    line: int
    column: int
    message: str


class Checked(msgspec.Struct, frozen=True):
    """What was found out about a script."""

    language: str
    """`python`, `sh`, `bash`; empty: none whose syntax can be checked here, so nothing was."""
    fault: SyntaxFault | None = None
    warnings: tuple[str, ...] = ()


async def check(language: str, content: bytes) -> Checked:
    """Return what is wrong with a script."""
    warnings = _warnings(content)
    if language == "python":
        argv = ["/bin/sh", "-c", _LIMITS + 'exec "$0" "$@"', sys.executable, "-I", "-S", "-c", _PYTHON]
    else:
        found = shutil.which(language) if language else None
        if found is None:
            return Checked("", None, warnings)
        argv = ["/bin/sh", "-c", _LIMITS + f"exec {found} -n"]
    async with _gate:
        return Checked(language, await asyncio.to_thread(_ask, language, argv, content), warnings)


def _warnings(content: bytes) -> tuple[str, ...]:
    first = content.split(b"\n", 1)[0]
    if first.startswith(b"#!") and first.endswith(b"\r"):
        return ("its lines end with CR LF: where the file is run by its #! line, the interpreter's name has a CR at its end",)
    return ()


def _ask(language: str, argv: list[str], content: bytes) -> SyntaxFault | None:
    try:
        done = subprocess.run(
            argv, input=content, capture_output=True, check=False, timeout=CHECK_SECONDS_MAX, cwd="/", env={"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return SyntaxFault(0, 0, f"it could not be checked within {CHECK_SECONDS_MAX} s: is it nested very deeply?")
    said = (done.stdout if language == "python" else done.stderr).decode(errors="replace").strip().split("\n")[0]
    if language == "python" and said:
        line, column, message = said.split(" ", 2)
        return SyntaxFault(int(line), int(column), message[:_ERROR_CHARACTERS_MAX])
    if done.returncode < 0:
        return SyntaxFault(0, 0, f"the parser of {language} ended by signal {-done.returncode}: is it nested very deeply?")
    if not done.returncode:
        return None
    match = _LINE.search(said)
    return SyntaxFault(int(match[1]) if match else 0, 0, (match[2] if match else said)[:_ERROR_CHARACTERS_MAX])
