"""The console script: split off what runs on hosts, parse the rest, load the one verb, turn errors into exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import sys
from typing import cast

from fleetlog.exits import CliError, Exit

_WITH_REST = ("exec", "run")


def main(argv: list[str] | None = None) -> int:
    """Run one invocation and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the rest
    if arguments == ["--version"]:
        from fleetlog_schemas.version import VERSION

        print(f"fleetlog {VERSION}")
        return Exit.OK
    try:
        return _run(arguments)
    except CliError as error:
        _flush()
        print(f"fleetlog: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        _flush()
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _flush() -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["agent"]:
        from fleetlog.verbs.agent import agent_with

        return agent_with(arguments[1:])
    head, rest = _split_rest(arguments)
    from fleetlog import parser as grammar

    parser = grammar.build()
    options, unknown = parser.parse_known_args(head)
    if unknown:
        raise _not_understood(head, unknown, getattr(options, "path", ""))
    if options.version:
        from fleetlog_schemas.version import VERSION

        print(f"fleetlog {VERSION}")
        return Exit.OK
    if not options.verb:
        parser.print_help()
        return Exit.TYPED_WRONG
    for name, value in grammar.DEFAULTS.items():
        if not hasattr(options, name):
            setattr(options, name, value)
    if rest is not None:
        options.rest = rest
    options.typed = arguments
    from fleetlog.console import Console

    module, _, function = options.run.partition(":")
    console = Console(options)
    try:
        result = cast("int", getattr(importlib.import_module(module), function)(console))
    finally:
        if options.path in grammar.TELL_FROZEN:
            console.say_frozen()
    sys.stdout.flush()
    return result


def _not_understood(head: list[str], unknown: list[str], path: str) -> CliError:
    said = f"not understood: {shlex.join(unknown)}"
    if path in _WITH_REST and not unknown[0].startswith("-"):
        cut = head.index(unknown[0])
        whole = f"fleetlog {shlex.join(head[:cut])} -- {shlex.join(head[cut:])}"
        return CliError(Exit.TYPED_WRONG, f"{said}; what runs on the hosts stands after --", whole)
    return CliError(Exit.TYPED_WRONG, said, f"see: {' '.join(['fleetlog', *path.split()])} --help")


def _split_rest(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Return what is ours and what stands after the first `--` of exec and run, which is nobody's but the host's."""
    if "--" not in arguments:
        return arguments, None
    cut = arguments.index("--")
    if not any(verb in arguments[:cut] for verb in _WITH_REST):
        return arguments, None
    return arguments[:cut], arguments[cut + 1 :]


if __name__ == "__main__":
    sys.exit(main())
