"""Three functions to begin with: remove old files, condense data, tell somebody.

Put this file where the host's `policy.toml` finds it:

    [functions]
    modules = ["housekeeping"]
    path = ["/opt/fleetlog-tasks"]
"""

import json
import os
import statistics
import time
import urllib.request
from pathlib import Path

from fleetlog import report_progress, task

SKIPPED_MAX = 20
"""Files that could not be removed and are named; the others are counted."""


@task
def remove_old_files(folder: str, days: float = 30, pattern: str = "*", dry_run: bool = False) -> dict[str, object]:
    """Remove the files of a folder that nobody changed for some days, and say how much room that made."""
    root = Path(folder).resolve(strict=True)
    before = time.time() - days * 86_400
    removed, freed_bytes, skipped = 0, 0, []
    found = [path for path in root.rglob(pattern) if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(found, 1):
        report_progress(number, len(found), path.name)
        try:
            status = path.stat()
            if status.st_mtime < before:
                if not dry_run:
                    path.unlink()
                removed, freed_bytes = removed + 1, freed_bytes + status.st_size
        except OSError as error:
            skipped.append(f"{path}: {error.strerror}")
    return {"removed": removed, "freed_bytes": freed_bytes, "skipped": skipped[:SKIPPED_MAX], "skipped_total": len(skipped)}


@task
def condense(file: str, column: str) -> dict[str, float]:
    """Read a file with one JSON object on each line, and return the statistics of one of its numbers."""
    values = []
    with Path(file).open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                values.append(float(json.loads(line)[column]))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {file} has no number {column!r}: {error}") from error
    if not values:
        raise ValueError(f"{file} has no lines")
    print(f"{len(values)} lines read")
    return {"count": len(values), "mean": statistics.fmean(values), "least": min(values), "most": max(values)}


@task("notify", queue="notifications")
def notify(url: str, text: str, token_variable: str = "") -> int:
    """Post a text as JSON to a web address, and return the status of the answer. The token is taken from a variable of the environment."""
    headers = {"Content-Type": "application/json"}
    if token_variable:
        headers["Authorization"] = f"Bearer {os.environ[token_variable]}"
    request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(answer.status)
