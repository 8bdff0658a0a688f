"""archive: list what is archived, check the files against the log, read them without the system.

`verify` and `read` work on the folder itself, with nothing else running: the archive outlives everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.render.text import count_of, moment, size, table
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.settings import SettingsError
from fleetlog_runtime.shell.archive import folder_of
from fleetlog_runtime.shell.settings_file import load_settings
from fleetlog_schemas import codec

Json = dict[str, Any]
PAGE = 500


def ls(console: Console) -> int:
    """List the segments that the log says are sealed, and how far the bus was pruned."""
    pages = list(_pages(console))
    sealed, last = [one for page in pages for one in page["segments"]], pages[-1]
    if console.json:
        console.put_json({**last, "segments": sealed, "next_seq": None})
        return Exit.OK
    rows = [
        (
            f"{one['first_seq']}-{one['last_seq']}", moment(one["first_at"]), moment(one["last_at"]), size(one["bytes"]),
            "archive" if one["pruned"] else "archive, bus", one["sha256"][:12],
        )
        for one in sealed
    ]
    if rows:
        console.put(table(("SEQUENCES", "FROM", "TO", "CONTENT", "WHERE", "SHA256"), rows, console.out_style))
    console.put("; ".join(standing(last)))
    return Exit.OK


def standing(page: Json) -> Iterator[str]:
    """Yield how the archive stands, part by part; `doctor` says the same."""
    yield f"archived through {page['sealed_through']}" if page["sealed_through"] else "nothing is archived yet"
    if page["pruned_through"]:
        yield f"pruned through {page['pruned_through']}"
    keeper = page["keeper"]
    if keeper is None:
        yield "no keeper answers"
        return
    yield f"{keeper['position'] - keeper['sealed_through']} events behind the log"
    if keeper["held_back"]:
        yield f"pruning is held back: {keeper['held_back']}"
    if keeper["error"]:
        yield keeper["error"]


def _pages(console: Console) -> Iterator[Json]:
    next_seq: int | None = 0
    while next_seq is not None:
        page: Json = console.gateway.get("/archive", from_seq=next_seq, limit=PAGE)["data"]
        yield page
        next_seq = page["next_seq"]


def _folder(console: Console) -> Path:
    if console.options.folder:
        folder = Path(console.options.folder)
    else:
        try:
            settings = load_settings(console.place.folder, [])
        except SettingsError as error:
            raise CliError(Exit.TYPED_WRONG, str(error)) from None
        folder = folder_of(console.place.folder, settings.keeper.archive_path)
    if not folder.is_dir():
        raise CliError(
            Exit.NOT_FOUND, f"there is no archive at {folder}",
            "name it with --folder; a system that has not run for long has archived nothing yet",
        )
    return folder


def verify(console: Console) -> int:
    """Read every segment whole and compare it with itself, its neighbours and the log; 1 when something is wrong."""
    folder = _folder(console)
    problems: list[str] = []
    heads: list[segments.Head] = []
    for path in sorted(folder.glob("*.segment")):
        try:
            head = segments.unpack(path.read_bytes()).head
        except segments.Damaged as error:
            problems.append(f"{path.name} is damaged: {error}")
            continue
        except OSError as error:
            problems.append(f"{path.name} cannot be read: {error.strerror}")
            continue
        if segments.name(head.sealed.first_seq) != path.name:
            problems.append(f"{path.name} holds the segment that begins at {head.sealed.first_seq}")
        heads.append(head)
    compared = _compare(console, heads, problems)
    if not problems and (hole := segments.joined(heads)):
        problems.append(hole)
    found = {
        "folder": str(folder), "segments": len(heads), "compared_with_log": compared, "problems": problems,
        "last_seq": heads[-1].sealed.last_seq if heads else 0, "chain_head": heads[-1].sealed.chain_head if heads else "",
    }
    if console.json:
        console.put_json(found)
    else:
        _say(console, found)
    return Exit.INTERNAL if problems else Exit.OK


def _compare(console: Console, heads: list[segments.Head], problems: list[str]) -> bool:
    """Note what the log says is sealed and is not here as it says; tell whether the log could be asked."""
    try:
        sealed = [one for page in _pages(console) for one in page["segments"]]
    except CliError as error:
        console.say(f"not compared with the log: {error.message}")
        return False
    here = {head.sealed.first_seq: head.sealed for head in heads}
    for one in sealed:
        found = here.get(one["first_seq"])
        if found is None:
            if not any(text.startswith(segments.name(one["first_seq"])) for text in problems):
                problems.append(f"{segments.name(one['first_seq'])} is missing; the log says that it was sealed")
        elif (found.last_seq, found.sha256, found.chain_head) != (one["last_seq"], one["sha256"], one["chain_head"]):
            problems.append(f"{segments.name(one['first_seq'])} is whole, and not what the log says was sealed")
    return True


def _say(console: Console, found: Json) -> None:
    for problem in found["problems"]:
        console.put(f"{console.out_style.glyph('failure')} {problem}")
    if found["problems"]:
        console.say("put back good copies: from a backup, or from another keeper's folder")
    else:
        against = "and with the log" if found["compared_with_log"] else "but not with the log"
        console.put(
            f"{count_of(found['segments'], 'segment')} in {found['folder']} agree with themselves {against},"
            f" through sequence {found['last_seq']}"
        )
        if found["chain_head"]:
            console.put(f"head of the hash chain: {found['chain_head']}")


def read(console: Console) -> int:
    """Print archived events, one JSON object per line, from a sequence on."""
    folder, left = _folder(console), console.options.limit
    next_seq = console.options.from_seq
    paths = {first: path for path in folder.glob("*.segment") if (first := segments.first_seq_of(path.name)) is not None}
    starts = sorted(first for first in paths)
    begun = [first for first in starts if first <= next_seq]
    for first in begun[-1:] + [first for first in starts if first > next_seq]:
        try:
            messages = segments.unpack(paths[first].read_bytes()).messages
        except (segments.Damaged, OSError) as error:
            raise CliError(Exit.INTERNAL, f"{paths[first]} cannot be read: {error}", "fleetlog archive verify") from None
        for stored in messages:
            if stored.seq >= next_seq and left:
                body = stored.body.decode(errors="replace")
                _put_line(console, stored.seq, stored.subject, codec.rfc3339(stored.time_ms), body)
                left -= 1
        if not left:
            break
    return Exit.OK


def _put_line(console: Console, seq: int, subject: str, stored_at: str, body: str) -> None:
    try:
        event: Any = json.loads(body)
    except ValueError:
        event = {"malformed": body}
    line = {"seq": seq, "subject": subject, "stored_at": stored_at, "event": event}
    # Everything beyond ASCII is escaped, so that what strangers wrote cannot command the terminal.
    console.put(json.dumps(line, separators=(",", ":")))
