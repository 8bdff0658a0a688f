"""backup: create, verify, show, ls, restore. All of it needs the files of the server, so it runs on its machine."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.render.text import count_of, moment, size, table
from fleetlog_schemas.version import VERSION


def _server(module: str) -> Any:
    """Return a module of the server. Raises CliError when the server is not installed."""
    try:
        return importlib.import_module(f"fleetlog_runtime.shell.{module}")
    except ModuleNotFoundError as error:
        raise CliError(
            Exit.INTERNAL, f"backups need the server: the module {error.name} is missing", "pip install 'fleetlog[server]'"
        ) from None


def _folder(console: Console) -> Path:
    return Path(console.options.folder).expanduser().absolute()


def create(console: Console) -> int:
    """Copy the system of the data folder to a new folder, running or stopped. Raises CliError."""
    options, backup = console.options, _server("backup")
    home = _server("home").Home(console.place.folder)
    target = _folder(console)
    try:
        manifest = asyncio.run(
            backup.create(home, target, VERSION, console.say, output=options.with_output, agents=options.with_agents)
        )
    except backup.BackupError as error:
        raise CliError(Exit.INTERNAL, str(error)) from None
    return _show(console, target, manifest)


def verify(console: Console) -> int:
    """Check every file of a backup; 1 when one is missing or differs. Raises CliError."""
    manifest = _manifest(console, "verify")
    if not console.json:
        console.say(f"whole: {count_of(len(manifest.files) + len(manifest.streams), 'file')} as they were written")
    return _show(console, _folder(console), manifest)


def show(console: Console) -> int:
    """Show what a backup holds, without reading its files. Raises CliError."""
    return _show(console, _folder(console), _manifest(console, "read_manifest"))


def _manifest(console: Console, how: str) -> Any:
    backup = _server("backup")
    try:
        return getattr(backup, how)(_folder(console))
    except backup.BackupError as error:
        raise CliError(Exit.INTERNAL, str(error)) from None


def ls(console: Console) -> int:
    """List the backups in a folder, oldest first, and what is none."""
    backup, folder = _server("backup"), _folder(console)
    if not folder.is_dir():
        raise CliError(Exit.NOT_FOUND, f"{folder} is no folder")
    found: list[dict[str, Any]] = []
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            found.append({"folder": str(one), "whole": True, **_summary(backup.read_manifest(one))})
        except backup.BackupError as error:
            found.append({"folder": str(one), "whole": False, "reason": str(error)})
    found.sort(key=lambda row: str(row.get("made_at", "")))
    if console.json:
        console.put_json(found)
        return Exit.OK
    rows = [
        (Path(row["folder"]).name, moment(row["made_at"]), str(row["last_seq"]), size(row["bytes"]), "")
        if row["whole"] else (Path(row["folder"]).name, "-", "-", "-", console.out_style.line(row["reason"]))
        for row in found
    ]
    if rows:
        console.put(table(("BACKUP", "MADE", "LOG THROUGH", "SIZE", ""), rows, console.out_style))
    return Exit.OK


def _summary(manifest: Any) -> dict[str, Any]:
    return {
        "made_at": manifest.made_at, "machine": manifest.machine, "fleetlog": manifest.fleetlog,
        "nats_server": manifest.nats_server, "hot": manifest.hot, "first_seq": manifest.log.first_seq,
        "last_seq": manifest.log.last_seq, "chain_head": manifest.log.chain_head,
        "streams": [copy.name for copy in manifest.streams],
        "bytes": sum(one.bytes for one in (*manifest.streams, *manifest.files)),
    }


def _show(console: Console, folder: Path, manifest: Any) -> int:
    found = _summary(manifest)
    if console.json:
        console.put_json({"folder": str(folder), **found})
        return Exit.OK
    state = "running" if found["hot"] else "stopped"
    console.put(f"backup  {folder}")
    console.put(f"made    {moment(found['made_at'])} on {console.out_style.line(found['machine'])}, from a {state} system")
    console.put(f"log     {found['first_seq']} to {found['last_seq']}, chain {found['chain_head'][:16]}")
    console.put(f"holds   {', '.join(found['streams'])}; {count_of(len(manifest.files), 'file')}; {size(found['bytes'])}")
    return Exit.OK


def restore(console: Console) -> int:
    """Make the data folder from a backup, where there is none. Raises CliError."""
    backup, module = _server("backup"), _server("restore")
    target = console.place.folder
    try:
        restored = asyncio.run(module.restore(_folder(console), target, console.say))
    except backup.BackupError as error:
        raise CliError(Exit.CONFLICT, str(error)) from None
    if console.json:
        console.put_json(
            {name: getattr(restored, name) for name in ("home", "made_at", "last_seq", "hosts_refused", "tasks_paused", "schedules_paused")}
        )
        return Exit.OK
    named = f" --data {target}" if console.options.data else ""
    console.put(
        f"restored {target}: the log through {restored.last_seq}, as of {moment(restored.made_at)}\n"
        f"  {count_of(restored.hosts_refused, 'host')} refused, {count_of(restored.tasks_paused, 'open task')}"
        f" and {count_of(restored.schedules_paused, 'schedule')} paused:"
        " what happened since the backup is not known here\n"
        f"  fleetlog{named} up                       start it, with --listen as before\n"
        f"  fleetlog{named} host accept --restored   let the hosts in again, after a look\n"
        f"  fleetlog{named} ls --state open          what was open: resume or abort each"
    )
    return Exit.OK
