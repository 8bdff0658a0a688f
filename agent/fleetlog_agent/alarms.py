"""What a person should know, without being told the same thing again and again. Pure."""

from __future__ import annotations

from fleetlog_agent import core_settings as limits
from fleetlog_agent.attempts import bounded
from fleetlog_agent.messages import Alarm


class Alarms:
    """Texts that were raised, and when each was said last."""

    def __init__(self) -> None:
        self._new: list[str] = []
        self._said_ms: dict[str, int] = {}

    def add(self, text: str) -> None:
        """Raise one alarm."""
        self._new.append(text)

    def due(self, now_ms: int) -> list[Alarm]:
        """Return what to say now."""
        due = []
        for text in self._new:
            if now_ms - self._said_ms.get(text, -limits.ALARM_REPEAT_MS) < limits.ALARM_REPEAT_MS:
                continue
            if len(self._said_ms) >= limits.ALARMS_MAX:
                del self._said_ms[next(iter(self._said_ms))]
            self._said_ms[text] = now_ms
            due.append(Alarm(bounded(text)))
        self._new.clear()
        return due
