"""Write every generated part of the pages again: what stands between two markers is made from the code.

A page says `<!-- generated: NAME -->` ... `<!-- end -->`; NAME is a key of PARTS. Pages that are generated whole are
in WHOLE. A tidy test calls `outdated` and fails when a page is behind the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fleetlog.reference
import fleetlog_gateway.reference
import fleetlog_gateway.registry
from fleetlog_runtime.pure import settings
from fleetlog_schemas import reference

ROOT = Path(__file__).resolve().parent.parent
_PART = re.compile(r"<!-- generated: (\S+) -->\n.*?<!-- end -->\n", re.DOTALL)
_SKIPPED = {".venv", ".git", "node_modules", ".hypothesis", ".pytest_cache"}


def settings_table() -> str:
    """Return every setting with its default and its reason."""
    rows = [(f"`{row.key}`", row.default, row.why) for row in settings.describe()]
    return reference.table(("setting", "default", "means"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "events": reference.event_table,
    "streams": reference.stream_table,
    "limits": reference.limit_table,
    "outcomes": reference.outcome_table,
    "lifecycle": reference.lifecycle_table,
    "lifecycle-diagram": reference.lifecycle_diagram,
    "trace": reference.trace_table,
    "trace-example": lambda: reference.trace_example(45),
    "settings": settings_table,
}
WHOLE: dict[str, Callable[[], str]] = {
    "docs/cli.md": fleetlog.reference.reference,
    "docs/api.md": lambda: fleetlog_gateway.reference.reference(fleetlog_gateway.registry.REGISTRY),
}


def pages() -> Iterator[Path]:
    """Yield every Markdown page of the project."""
    for path in sorted(ROOT.rglob("*.md")):
        if not _SKIPPED & set(path.relative_to(ROOT).parts):
            yield path


def _filled(match: re.Match[str]) -> str:
    return f"<!-- generated: {match[1]} -->\n{PARTS[match[1]]().rstrip()}\n<!-- end -->\n"


def wanted() -> Iterator[tuple[Path, str]]:
    """Yield each page that has generated parts, with the text it should have."""
    for path in pages():
        text = path.read_text()
        if "<!-- generated:" in text:
            yield path, _PART.sub(_filled, text)
    for name, make in WHOLE.items():
        yield ROOT / name, make()


def outdated() -> list[str]:
    """Return the pages that differ from what the code says."""
    return [str(path.relative_to(ROOT)) for path, text in wanted() if not path.exists() or path.read_text() != text]


if __name__ == "__main__":
    for page, content in list(wanted()):
        if not page.exists() or page.read_text() != content:
            page.write_text(content)
            sys.stdout.write(f"wrote {page.relative_to(ROOT)}\n")
