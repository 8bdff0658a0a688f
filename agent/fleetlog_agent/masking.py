"""Hide secret values in output, also where they were encoded or cut by a read. Pure.

A value is hidden raw, in base64 (all three alignments, both alphabets), URL-escaped and JSON-escaped, and line by
line when it has several. What replaces it has the same length, so that offsets into the output stay true.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

SECRET_BYTES_MIN = 4
"""Shorter values are not hidden: they would blot out ordinary text and still be guessed."""
FORM_BYTES_MAX = 16 * 1024
"""Longer values are hidden line by line only: what may be the beginning of one is held back from publishing."""


class Masker:
    """Replace every form of some secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Prepare for these values."""
        forms: set[bytes] = set()
        for secret in secrets:
            if len(secret.encode()) >= SECRET_BYTES_MIN:
                forms |= _forms(secret)
        self._longest = max(map(len, forms), default=0)
        # The longest first: of two forms that begin alike the longer one must win.
        ordered = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, ordered))) if ordered else None

    @property
    def hold_back(self) -> int:
        """Bytes at the end of what was read that may be the beginning of a secret."""
        return max(self._longest - 1, 0)

    def mask(self, data: bytes, *, final: bool) -> bytes:
        """Return the masked beginning of *data* that is safe to publish; with *final*, all of it.

        The caller comes again with the bytes that were not returned, and more behind them.
        """
        if self._pattern is None:
            return data
        end = len(data) if final else max(len(data) - self.hold_back, 0)
        parts, position = [], 0
        for match in self._pattern.finditer(data):
            if match.start() >= end:
                break
            parts += [data[position : match.start()], b"*" * len(match[0])]
            position = match.end()
        end = max(end, position)
        parts.append(data[position:end])
        return b"".join(parts)


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    forms = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode()}
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        forms.add(escaped.encode(errors="surrogatepass"))
    for alignment in range(3):
        # Inside a longer text the first and last characters also depend on what stands around: leave them out.
        encoded = base64.b64encode(b"\0" * alignment + raw)
        inner = encoded[(0, 2, 3)[alignment] :].rstrip(b"=")
        inner = inner if (alignment + len(raw)) % 3 == 0 else inner[:-1]
        forms |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    forms |= {base64.b64encode(raw), base64.urlsafe_b64encode(raw)}
    if "\n" in secret:
        forms |= {line.strip().encode() for line in secret.splitlines()}
    return {form for form in forms if SECRET_BYTES_MIN <= len(form) <= FORM_BYTES_MAX}
