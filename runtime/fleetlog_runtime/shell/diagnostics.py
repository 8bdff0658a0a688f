"""Diagnostics: the services' own logging, one JSON object a line on stderr.

What looks like a secret is cut out before it is written, wherever it stands: bearer and join tokens, NATS seeds,
JWTs, and the values of fields that are named like one.
"""

from __future__ import annotations

import contextlib
import re
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
TEXT_MAX = 4_000
"""Characters of one value: a hostile message must not fill the disk."""
_SECRETS = re.compile(
    r"fl[a-z]{1,4}_[A-Za-z0-9_-]{16,}"  # our tokens
    r"|(?<![A-Z2-7])S[UAO][A-Z2-7]{56}(?![A-Z2-7])"  # NATS seeds
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"  # JWTs
)
_SECRET_NAMES = re.compile(r"(?i)(^|_)(token|seed|secret|password|authorization|jwt)$")
_CUT = "[cut out]"


class _Lossy:
    """A stream that may lose lines: a full disk behind it, or nobody who reads, must not end what it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write *text* if that can be done."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Write what is buffered if that can be done."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(level: str = "info") -> None:
    """Send diagnostics of this process to stderr as JSON, from *level* on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _Lossy(sys.stderr))),
        cache_logger_on_first_use=False,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut secrets out of one line; a structlog processor."""
    return {key: _CUT if _SECRET_NAMES.search(key) else _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        text = _SECRETS.sub(_CUT, value)
        return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text)} characters)"
    if isinstance(value, bytes):
        return _clean(value.decode(errors="replace"))
    if isinstance(value, dict):
        return {key: _CUT if _SECRET_NAMES.search(str(key)) else _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if isinstance(value, bool | int | float | None):
        return value
    return _clean(str(value))
