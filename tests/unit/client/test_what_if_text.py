"""Two pasts as a person reads them: start delays, load and misses, of all schedules together and of each."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog.render.text import Style
from fleetlog.render.what_if import what_if_text
from fleetlog_schemas.what_if import Side, WhatIf, WhatIfSchedule

BEGIN, END = "2026-05-04T08:00:00Z", "2026-05-04T12:00:00Z"
PLAIN = Style(colour=False, unicode=True)


def weighed(fired: int, missed: int = 0, delay_ms: int | None = 0, peak: int = 1, **reasons: int) -> Side:
    return Side(
        fired=fired, missed=missed, skipped=0, reasons={f"missed {word}": count for word, count in reasons.items()},
        delay_p50_ms=delay_ms, delay_p95_ms=delay_ms, delay_max_ms=delay_ms, peak=peak, peak_at=BEGIN if peak else None,
        busy_seconds=60.0, load=(0, peak, 0),
    )


def text(was: Side, would_be: Side, **schedules: tuple[Side, Side]) -> list[str]:
    told = WhatIf(
        since=BEGIN, until=END, was=was, would_be=would_be, schedules=[WhatIfSchedule(name, *one) for name, one in schedules.items()],
        lengths_known=1, lengths_usual=0, lengths_unknown=0, away_seconds=0.0,
    )
    api: dict[str, Any] = msgspec.to_builtins(told)
    return [" ".join(line.split()) for line in what_if_text(api, PLAIN).splitlines()]


def test_delays_load_and_misses_stand_beside_one_another() -> None:
    lines = text(weighed(3, 2, 90_000, late=2), weighed(5, 0, 1_000, 4))
    for line in ("fired 3 5", "missed 2 0", "missed late 2 0", "start delay p95 1m30s 1.0s", "start delay max 1m30s 1.0s", "most runs at once 1 4"):
        assert line in lines
    assert [line for line in lines if line.endswith(("▂", "█"))] == ["runs at once, as it was ▂", "as it would have been █"]


def test_what_was_never_fired_has_no_delay() -> None:
    assert "start delay p95 - 2.0s" in text(weighed(0, 1, None, 0), weighed(1, 0, 2_000))


def test_of_several_schedules_also_those_are_told_of_which_only_delay_or_load_changes() -> None:
    same = weighed(4)
    lines = text(
        weighed(16), weighed(15), same=(same, same), spread=(same, weighed(4, delay_ms=600_000)), crowded=(same, weighed(4, peak=3)),
        fewer=(same, weighed(3, 1)), quicker=(weighed(4, delay_ms=600), weighed(4, delay_ms=2)),
    )
    at = lines.index("SCHEDULE FIRED MISSED SKIPPED DELAY P95 AT ONCE")
    assert lines[at + 1 :] == [
        "fewer 4 -> 3 0 -> 1 0 -> 0 0.00s -> 0.00s 1 -> 1",
        "spread 4 -> 4 0 -> 0 0 -> 0 0.00s -> 10m00s 1 -> 1",
        "crowded 4 -> 4 0 -> 0 0 -> 0 0.00s -> 0.00s 1 -> 3",
    ], "neither the one that stays as it was, nor half a second of the machine's"
