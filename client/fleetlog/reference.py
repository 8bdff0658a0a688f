"""The reference of the command line, printed from the parser: `python -m fleetlog.reference > docs/cli.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from fleetlog.exits import MEANINGS
from fleetlog.parser import EPILOG, build
from fleetlog.verbs.about import verbs_of

_GLOBAL = "everywhere"


def reference() -> str:
    """Return docs/cli.md."""
    parser = build()
    parts = [
        "# The command line\n",
        "Printed from the parser by `python -m fleetlog.reference`; a test compares the two.\n",
        EPILOG + "\n",
        "Options that stand before or after every verb:\n",
        _options(parser, _GLOBAL),
        "\n## Exit codes\n",
        "| code | means |\n| --- | --- |",
        *(f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()),
    ]
    for path, verb in _walk(parser, ""):
        parts += [f"\n## fleetlog {path}\n", verb.description or "", ""]
        parts.append(_arguments(verb))
    return "\n".join(parts).rstrip() + "\n"


def _walk(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    seen: set[int] = set()
    for name, verb in verbs_of(parser).items():
        if id(verb) in seen:
            continue  # an alias of the one before
        seen.add(id(verb))
        inner = list(_walk(verb, f"{prefix}{name} "))
        if inner:
            yield from inner
        else:
            yield f"{prefix}{name}", verb


def _arguments(verb: argparse.ArgumentParser) -> str:
    groups = [group.title for group in verb._action_groups if group.title != _GLOBAL]  # noqa: SLF001  # argparse has no other way
    rows = [row for title in groups if title for row in _rows(verb, title)]
    return "\n".join(["| argument | means |", "| --- | --- |", *rows]) if rows else "No arguments of its own."


def _options(parser: argparse.ArgumentParser, title: str) -> str:
    return "\n".join(["| argument | means |", "| --- | --- |", *_rows(parser, title)])


def _rows(parser: argparse.ArgumentParser, title: str) -> Iterator[str]:
    for group in parser._action_groups:  # noqa: SLF001  # same
        if group.title != title:
            continue
        for action in group._group_actions:  # noqa: SLF001  # same
            if action.help in (None, argparse.SUPPRESS) and not action.metavar and not action.choices:
                continue
            if isinstance(action, argparse._HelpAction):  # noqa: SLF001  # same
                continue
            yield f"| `{_spelled(action)}` | {(action.help or '').replace('%%', '%').replace('|', '&#124;')} |"


def _spelled(action: argparse.Action) -> str:
    value = str(action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()))
    if not action.option_strings:
        return value.replace("|", "/")
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value.replace('|', '/')}"


if __name__ == "__main__":
    sys.stdout.write(reference())
