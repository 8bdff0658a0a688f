"""What became of each host that was told to stop: the proof of a cancel, host by host."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fleetlog.render.text import Style, count_of, moment, shorten
from fleetlog_schemas import hostset
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.records import Command, CommandState

ROWS_MAX = 20
"""Hosts with a line and a time each; of more, those alike are folded into one line."""
AWAY = "cannot be reached: it will be told when it returns"


def proof_lines(commands: Iterable[Command], away: Collection[str], style: Style) -> list[str]:
    """Return what is known of each command that was told to stop; *away* are the hosts that cannot be reached."""
    found = [(command.host_name, _state(command), *_proof(command, command.host_name in away)) for command in commands]
    if len(found) <= ROWS_MAX:
        width = max((len(name) for name, *_ in found), default=0)
        return [
            f"  {style.glyph(state)} {style.line(name):<{width}}  {proof}" + (f" at {at}" if at else "")
            for name, state, proof, at in found
        ]
    groups: dict[tuple[str, str], list[str]] = {}
    for name, state, proof, _ in found:
        groups.setdefault((state, proof), []).append(name)
    return [
        f"  {style.glyph(state)} {count_of(len(names), 'host')}: {shorten(style.line(hostset.fold(names)), 200)}  {proof}"
        for (state, proof), names in groups.items()
    ]


def _state(command: Command) -> str:
    return command.outcome.value if command.outcome else command.state.value


def _proof(command: Command, away: bool) -> tuple[str, str]:
    """Return what proves the end of a command, and when; or why there is no proof yet."""
    last = command.last
    end = last.end if last else None
    if command.state is not CommandState.ENDED or last is None or end is None:
        if command.state is CommandState.WAITING:
            return "has not started, and will not", ""
        return (AWAY if away else "has been told, and has not confirmed yet"), ""
    at = moment(rfc3339(last.end_ms))
    if not last.decided:
        return (f"confirmed by the host: {end.outcome}" + (f", exit {end.exit_code}" if end.exit_code is not None else "")), at
    if end.outcome is Outcome.LOST or end.ran is Ran.UNKNOWN:
        return "may have run, and cannot confirm: look at it", at
    return "never started", at
