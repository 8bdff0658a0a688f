"""One export is asked for until it is made: the same one, also when the log has grown meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from fleetlog_gateway import limits
from fleetlog_gateway.asking import RawAnswer
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.routes.exports import piece_when_made, placed
from fleetlog_schemas.exports import ExportPiece, Format, Selection, What

NOW = Selection(what=What.TASKS, format=Format.CSV)


class Asker:
    """A reporter that has the problems of *codes*, one after the other, and then the file."""

    def __init__(self, *codes: str) -> None:
        self._codes = list(codes)
        self.asked: list[dict[str, Any]] = []

    async def report(self, _question: str, _kind: Any, fields: dict[str, Any]) -> RawAnswer:
        self.asked.append(fields)
        if self._codes:
            raise HttpProblem(self._codes.pop(0), "not now")
        piece = ExportPiece(selection=NOW, size=1, sha256="", rows=1, missing=0, data=b"x")
        return RawAnswer(seq=9, data=msgspec.Raw(msgspec.json.encode(piece)))


class Asking:
    """As much of a gateway as is needed."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker


def asked(*codes: str, seconds: float = 5) -> Asker:
    asker = Asker(*codes)
    asyncio.run(piece_when_made(cast("Gateway", Asking(asker)), placed(NOW, 7), 0, seconds))
    return asker


def test_what_is_asked_for_again_is_the_export_of_the_same_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXPORT_PAUSE_SECONDS", 0.0)
    asker = asked("export-being-made", "busy", "behind", "service-unavailable")
    assert [fields["selection"]["as_of_seq"] for fields in asker.asked] == [7] * 5


def test_a_position_that_was_named_stays() -> None:
    assert placed(msgspec.structs.replace(NOW, as_of_seq=3), 7).as_of_seq == 3
    with pytest.raises(HttpProblem, match="up to 7, not yet to 8"):
        placed(msgspec.structs.replace(NOW, as_of_seq=8), 7)


@pytest.mark.parametrize(("code", "seconds"), [("export-no-room", 5.0), ("too-far", 5.0), ("export-being-made", -1.0)])
def test_what_does_not_pass_or_takes_too_long_is_said(code: str, seconds: float) -> None:
    with pytest.raises(HttpProblem) as caught:
        asked(code, seconds=seconds)
    assert caught.value.code == code
