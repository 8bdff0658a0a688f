"""The command `fleetlog agent`: run, join, ps, status.

Everything heavy is imported by the verb that needs it: `ps` works with nothing but the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fleetlog_agent.identity import Identity, IdentityError, default_folder, read_identity

if TYPE_CHECKING:
    from fleetlog_agent.journal_records import Entry, Key

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def agent_main(argv: list[str]) -> int:
    """Run one `fleetlog agent` command line, without the words `fleetlog agent`; return the exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    folder = (options.data or default_folder()).absolute()
    verbs = {"run": _run, "join": _join, "ps": _ps, "status": _status}
    return verbs[options.verb](folder, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetlog agent", description="The agent: runs commands on this host.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run|join|ps|status")
    run = verbs.add_parser("run", help="run the agent of this host until it is told to stop")
    run.add_argument("--set", action="append", default=[], metavar="agent.NAME=VALUE",
                     help="one setting (also FLEETLOG_AGENT_NAME, or [agent] in settings.toml of the folder)")
    run.add_argument("--bus", action="append", default=[], metavar="URL",
                     help="where the bus is now, if no longer where it was at join (repeatable)")
    run.add_argument("--bus-ca", type=Path, default=None, metavar="FILE",
                     help="authority to trust there, if no longer the one of join")
    join = verbs.add_parser("join", help="make this machine a host of a fleet, with the line of `fleetlog host add`")
    join.add_argument("url", metavar="https://HOST:PORT")
    join.add_argument("--token", required=True, help="works once, within 15 minutes")
    join.add_argument("--ca-sha256", default="", metavar="HEX", help="fingerprint of the authority to trust")
    join.add_argument("--no-start", action="store_true", help="only join; start later with `fleetlog agent run`")
    ps = verbs.add_parser("ps", help="what runs here and who asked; needs no bus")
    ps.add_argument("-a", "--all", action="store_true", help="also what has ended and is not yet settled")
    status = verbs.add_parser("status", help="who this host is and what it holds; needs no bus")
    for verb in (run, join, ps, status):
        verb.add_argument("--data", type=Path, default=None, metavar="DIR", help=f"default {default_folder()}")
    for verb in (ps, status):
        verb.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser


def _fail(text: str, code: int = EXIT_FAILED) -> int:
    sys.stderr.write(f"fleetlog agent: {text}\n")
    return code


def _keep_small() -> None:
    """Leave out what libraries import if it is there and an agent never uses: 15 MiB and a quarter of a second.

    nats-py has aiohttp for websockets, structlog has rich for colours. None in sys.modules reads as not installed.
    """
    for name in ("aiohttp", "rich"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # documented for exactly this


def _run(folder: Path, options: argparse.Namespace) -> int:
    _keep_small()
    from fleetlog_agent.agent import AgentError
    from fleetlog_agent.journal import JournalError
    from fleetlog_agent.policy import PolicyError

    try:
        return _serve(folder, options)
    except (IdentityError, AgentError, JournalError, PolicyError) as error:
        return _fail(str(error))


def _serve(folder: Path, options: argparse.Namespace) -> int:
    import gc
    import signal

    from fleetlog_agent.agent import Agent
    from fleetlog_runtime.pure.settings import SettingsError
    from fleetlog_runtime.shell import diagnostics
    from fleetlog_runtime.shell.settings_file import load_settings

    try:
        settings = load_settings(folder, options.set)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    diagnostics.configure(settings.runtime.log_level)
    identity, authority = _whom_to_reach(folder, options)
    agent = Agent(folder, identity, settings.agent, authority)

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        # What was imported stays for ever: keep it out of every later collection, and look for cycles, which an attempt
        # hardly leaves behind, every some hundred attempts instead of every few.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        await agent.run(stop)

    if sys.platform == "linux":
        import uvloop

        uvloop.run(serve())
    else:
        asyncio.run(serve())
    return EXIT_OK


def _whom_to_reach(folder: Path, options: argparse.Namespace) -> tuple[Identity, Path | None]:
    """Return who this host is and where its bus is, and the authority to trust there. Raises IdentityError."""
    identity = read_identity(folder)
    pinned: Path | None = folder / "ca.pem"
    if options.bus:
        identity = msgspec.structs.replace(identity, nats_urls=tuple(options.bus))
        if not any(url.startswith("tls:") for url in options.bus):
            pinned = None
    if options.bus_ca is not None and not options.bus_ca.is_file():
        raise IdentityError(f"--bus-ca {options.bus_ca}: there is no such file")
    return identity, options.bus_ca or (pinned if pinned and pinned.exists() else None)


def _join(folder: Path, options: argparse.Namespace) -> int:
    from fleetlog_agent.join import JoinError, join

    try:
        identity = join(folder, options.url, options.token, options.ca_sha256)
    except JoinError as error:
        return _fail(str(error))
    sys.stdout.write(f"joined as {identity.name} ({identity.host_id}); data in {folder}\n")
    if options.no_start:
        sys.stdout.write(f"start it with: fleetlog agent run --data {folder}\n")
        return EXIT_OK
    sys.stdout.write("running; stop with Ctrl-C, start again with: fleetlog agent run --data " + f"{folder}\n")
    sys.stdout.flush()
    return _run(folder, _parser().parse_args(["run"]))


def _ps(folder: Path, options: argparse.Namespace) -> int:
    from fleetlog_agent.journal import JournalError, read_journal

    try:
        state, _ = read_journal(folder / "journal")
    except (JournalError, OSError) as error:
        return _fail(str(error))
    rows = [_row(key, entry) for key, entry in state.entries.items() if options.all or entry.end is None]
    if options.output == "json":
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return EXIT_OK
    if not rows:
        sys.stdout.write("nothing runs here\n")
        return EXIT_OK
    columns = ("task", "attempt", "state", "pid", "seconds", "asked_by", "what")
    lines = [columns, *(tuple(str(row[name]) for name in columns) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        sys.stdout.write("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() + "\n")
    return EXIT_OK


def _row(key: Key, entry: Entry) -> dict[str, Any]:
    from fleetlog_agent.process_tree import boot_ms, process_stat
    from fleetlog_schemas.spec import summary

    row: dict[str, Any] = {
        "task": key.task_id, "attempt": key.attempt, "state": str(entry.state), "pid": "", "seconds": "",
        "asked_by": "", "what": "", "name": "", "outcome": str(entry.end.outcome) if entry.end else "",
    }
    if entry.accepted is not None:
        start = entry.accepted.start
        # Control characters in an argument must not reach a terminal.
        what = summary(start.payload).encode("unicode_escape").decode("ascii")
        row |= {"asked_by": start.submitted_by, "name": start.task_name, "what": what[:200]}
    if entry.started is not None and entry.end is None:
        stat = process_stat(entry.started.pid)
        alive = stat is not None and stat[2] == entry.started.process_start and stat[3] != "Z"
        row |= {
            "pid": entry.started.pid, "seconds": max(boot_ms() - entry.started.started_ms, 0) // 1000,
            "state": "running" if alive else "gone, not yet noticed",
        }
    return row


def _status(folder: Path, options: argparse.Namespace) -> int:
    from fleetlog_agent.journal import JournalError, read_journal

    try:
        identity = read_identity(folder)
        state, length = read_journal(folder / "journal")
    except (IdentityError, JournalError, OSError) as error:
        return _fail(str(error))
    states = [str(entry.state) for entry in state.entries.values()]
    answer: dict[str, Any] = {
        "name": identity.name, "host_id": identity.host_id, "data": str(folder), "gateway": identity.gateway,
        "nats_urls": list(identity.nats_urls), "running": _is_running(folder),
        "session_epoch": state.session.epoch if state.session else 0, "journal_counter": state.counter,
        "journal_bytes": length, "held": {name: states.count(name) for name in ("accepted", "running", "ended")},
    }
    if options.output == "json":
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return EXIT_OK
    for name, value in answer.items():
        text = ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else value
        if isinstance(value, list | bool):
            text = ", ".join(value) if isinstance(value, list) else "yes" if value else "no"
        sys.stdout.write(f"{name.replace('_', ' '):16} {text}\n")
    return EXIT_OK


def _is_running(folder: Path) -> bool:
    import fcntl

    try:
        with (folder / "agent.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


if __name__ == "__main__":
    sys.exit(agent_main(sys.argv[1:]))
