"""The text of the SQL files that stand beside the answers, each named by its question."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def question_sql(name: str) -> str:
    """Return the text of one SQL file of this package."""
    return files("fleetlog_reporter.answers").joinpath(name).read_text(encoding="utf-8")
