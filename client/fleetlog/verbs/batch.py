"""batch: a task for each line of a file, submitted in large pieces; with --wait followed until all have ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fleetlog.client import SUBMIT_PAUSE_S, SUBMIT_TRIES_MAX, new_task_id
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError
from fleetlog.meant import decoder_text
from fleetlog.render.text import count_of, seconds
from fleetlog.sse import Feed, Item, Trouble
from fleetlog_schemas import events, limits
from fleetlog_schemas.spec import Shell, SpecError, TaskSpec, check_spec

PIECE_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of the tasks of one request: half of what the gateway takes."""
IDS_SHOWN_MAX = 20
"""Ids printed on a terminal; a file or a pipe gets all of them."""
SAY_EVERY_S = 5.0
"""How often a line says how many have ended."""
TICK_S = 0.25
BAD_SHOWN_MAX = 5

Piece = list[tuple[str, bytes]]
"""Task ids, each with its specification as JSON."""


def batch(console: Console) -> int:
    """Submit a task for each line, and follow them if that is wanted."""
    options = console.options
    specs = list(_specs(options.file))
    if not specs:
        raise CliError(Exit.TYPED_WRONG, f"{options.file} has no task", 'a line is one: {"argv": ["uptime"], "target": "web*"}')
    start_seq = int(console.gateway.get("/log", limit=1)["seq"]) if options.wait else 0
    console.say_frozen()
    task_ids = _submit(console, specs)
    if not options.wait:
        return _print(console, task_ids)
    return _wait(console, task_ids, start_seq)


def _specs(path: str) -> Iterator[bytes]:
    """Yield the specification of each line that is not blank, checked.

    Raises:
        CliError: naming the line that is wrong.
    """
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield _spec(line)
            except SpecError as error:
                raise CliError(Exit.TYPED_WRONG, f"line {number}: {error.pointer or '/'}: {error.message}") from None
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise CliError(
                    Exit.TYPED_WRONG, f"line {number}: {decoder_text(str(error), TaskSpec)}", 'write {"argv": ["uptime"], "target": "web*"}'
                ) from None


def _lines(path: str) -> Iterator[bytes]:
    if path == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield from file
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot read {path}: {error.strerror}") from None


def _spec(line: bytes) -> bytes:
    """Return one line as the JSON of a specification; `argv` stands for a payload that starts a program."""
    fields = msgspec.json.decode(line, type=dict[str, Any])
    if "argv" in fields:
        if "payload" in fields:
            raise SpecError("/argv", "give either argv or a payload")
        fields["payload"] = msgspec.to_builtins(Shell(argv=msgspec.convert(fields.pop("argv"), tuple[str, ...])))
    spec = msgspec.convert(fields, TaskSpec)
    check_spec(spec)
    return msgspec.json.encode(spec)


def _pieces(specs: list[bytes]) -> Iterator[Piece]:
    """Cut the tasks into pieces that the gateway takes at once, and give each task its id."""
    piece, size = Piece(), 0
    for spec in specs:
        if piece and (len(piece) >= limits.TASKS_PER_SUBMIT_MAX or size + len(spec) > PIECE_BYTES_MAX):
            yield piece
            piece, size = Piece(), 0
        piece.append((new_task_id(), spec))
        size += len(spec) + 100
    yield piece


def _submit(console: Console, specs: list[bytes]) -> list[str]:
    """Submit all of them, and return their ids.

    Raises:
        CliError: saying how many were submitted before, and how to go on.
    """
    task_ids: list[str] = []
    for piece in _pieces(specs):
        body = b'{"tasks":[' + b",".join(b'{"task_id":"%s","spec":%s}' % (one.encode(), spec) for one, spec in piece) + b"]}"
        try:
            _send(console, body)
        except CliError as error:
            done = len(task_ids)
            unsettled = isinstance(error, GatewayError) and error.status == 504
            rest = f"whether the next {len(piece)} are is not known: fleetlog ls" if unsettled else "the others are not"
            hint = f"of {count_of(len(specs), 'task')} the first {done} are submitted; {rest}"
            raise CliError(error.code, error.message, hint if done or unsettled else error.hint) from None
        task_ids += [one for one, _ in piece]
    return task_ids


def _send(console: Console, body: bytes) -> None:
    """Send one piece; without an answer it is sent again with the same ids, which the log takes once."""
    for attempt in range(1, SUBMIT_TRIES_MAX + 1):
        try:
            console.gateway.post("/tasks/batch", body, Content_Type="application/json")
        except GatewayError as error:
            if error.status not in (503, 504) or attempt == SUBMIT_TRIES_MAX:
                raise
            time.sleep(SUBMIT_PAUSE_S)
        else:
            return


def _print(console: Console, task_ids: list[str]) -> int:
    if console.json:
        console.put_json({"task_ids": task_ids})
        return Exit.OK
    if len(task_ids) <= IDS_SHOWN_MAX or not sys.stdout.isatty():
        console.put("\n".join(task_ids))
    console.say(f"{count_of(len(task_ids), 'task')} submitted   look: fleetlog ls")
    return Exit.OK


class _Ends(msgspec.Struct, frozen=True):
    """What is needed of the events that end tasks."""

    tasks: tuple[events.TaskEnd, ...] = ()
    refusals: tuple[events.Refusal, ...] = ()


class _EndEvent(msgspec.Struct, frozen=True):
    data: _Ends


class _StoredEnd(msgspec.Struct, frozen=True):
    event: _EndEvent


_ENDS = frozenset(events.NAMES[kind] for kind in (events.TasksEnded, events.TasksRefused))
_decode_end = msgspec.json.Decoder(_StoredEnd).decode


def _wait(console: Console, task_ids: list[str], start_seq: int) -> int:
    """Follow the log until all of them have ended, and return the exit code of how they ended."""
    wait_ms = console.options.wait_timeout_ms
    deadline = None if wait_ms is None else time.monotonic() + wait_ms / 1000
    outcomes: dict[str, str] = {}
    wanted, say_at = frozenset(task_ids), time.monotonic() + SAY_EVERY_S
    feed = Feed(console.gateway, "/events", str(start_seq))
    try:
        while len(outcomes) < len(wanted):
            if deadline is not None and time.monotonic() > deadline:
                raise CliError(
                    Exit.WAITED, f"{len(wanted) - len(outcomes)} of {len(wanted)} tasks have not ended in"
                    f" {seconds(wait_ms / 1000)}; they go on", "fleetlog ls --state open",
                )
            item = feed.take(TICK_S)
            if isinstance(item, Trouble):
                console.say(f"the live feed broke off ({item.message}); connecting again")
            elif isinstance(item, Item) and item.event in _ENDS:
                _take(item, wanted, outcomes)
            if time.monotonic() > say_at:
                say_at = time.monotonic() + SAY_EVERY_S
                console.say(f"{len(outcomes)}/{len(wanted)} tasks ended")
    except KeyboardInterrupt:
        console.say("\ndetached; the tasks go on:  fleetlog ls --state open")
        return Exit.INTERRUPTED
    finally:
        feed.close()
    return _finish(console, task_ids, outcomes)


def _take(item: Item, wanted: frozenset[str], outcomes: dict[str, str]) -> None:
    """Note which of the tasks an event ends; an event that cannot be read ends none."""
    try:
        ends = _decode_end(item.data).event.data
    except msgspec.MsgspecError:
        return
    found = [(end.task_id, end.outcome.value) for end in ends.tasks]
    found += [(refusal.task_id, "refused") for refusal in ends.refusals]
    for task_id, outcome in found:
        if task_id in wanted:
            outcomes.setdefault(task_id, outcome)


def _finish(console: Console, task_ids: list[str], outcomes: dict[str, str]) -> int:
    from fleetlog.exits import of_counts
    from fleetlog.render.task import counts_text

    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    if console.json:
        console.put_json({"counts": counts, "outcomes": {one: outcomes[one] for one in task_ids}})
    console.say(f"{count_of(len(task_ids), 'task')} ended: {counts_text(counts, console.err_style)}")
    bad = [one for one in task_ids if outcomes[one] != "success"]
    for one in bad[:BAD_SHOWN_MAX]:
        console.say(f"  {outcomes[one]}: fleetlog why {one[-8:]}")
    if len(bad) > BAD_SHOWN_MAX:
        console.say(f"  … {len(bad) - BAD_SHOWN_MAX} more: fleetlog ls --outcome OUTCOME")
    return Exit.FAILED if counts.get("refused") else of_counts(counts)
