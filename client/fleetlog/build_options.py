"""The grammar of what is kept as files: `build`, `artifact` and `export`. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.options import task_options
from fleetlog.values import past_ms

EXPORTS = ("tasks", "commands", "events", "output", "artifacts")
"""What can be exported; written here too, for the command line starts without the schemas."""


def build_verb(verb: argparse.ArgumentParser) -> None:
    """Add what `build` takes."""
    verb.add_argument("--step", action="append", default=[], metavar="TEXT",
                      help="run this text with /bin/sh -ec, after the step before it (repeatable)")
    verb.add_argument("--artifact", action="append", default=[], metavar="PATH[=NAME]",
                      help="keep this file, folder (as tar) or pattern of the build's folder (repeatable)")
    verb.add_argument("--artifact-ended", action="append", default=[], metavar="PATH[=NAME]",
                      help="as --artifact, kept also when the build goes wrong: a test report (repeatable)")
    verb.add_argument("--input", action="append", default=[], metavar="FILE[=PATH]",
                      help="put this file from here into the build's folder first; ID:NAME is an artifact of a task (repeatable)")
    task_options(verb)
    verb.set_defaults(rest=[])


def export_verb(verb: argparse.ArgumentParser) -> None:
    """Add what `export` takes."""
    verb.add_argument("what", choices=EXPORTS, metavar="WHAT", help=f"one of {', '.join(EXPORTS)}")
    verb.add_argument("--format", default="", choices=["ndjson", "csv", "parquet", "tar"], metavar="FORMAT",
                      help="ndjson, csv, parquet or tar (default: as the file is named, else tar of artifacts and ndjson of the rest)")
    verb.add_argument("--to", default="", metavar="FILE", help="where to (default: WHAT.FORMAT, here); - for stdout; with -t, a file on the"
                      " host, in which %%Y-%%m-%%d is the day (default: an artifact of the task)")
    verb.add_argument("--artifact", default="", metavar="NAME", help="of artifacts only this one, as it is and not in a tar")
    verb.add_argument("--force", action="store_true", help="also when the file is there already")
    verb.add_argument("--task", action="append", default=[], metavar="ID", help="of this task (repeatable; default: of all that have ended)")
    verb.add_argument("--since", dest="since_ms", type=past_ms, default=0, metavar="TIME", help="what ended at this time or later, or so long ago: 7d")
    verb.add_argument("--until", dest="until_ms", type=past_ms, default=0, metavar="TIME", help="what ended before this time, or so long ago")
    verb.add_argument("--as-of", default="", metavar="SEQ", help="what had ended at this sequence of the log: the same again")
    task_options(verb, target_required=False, target_help="do it there, as a task, and not here")
    verb.set_defaults(rest=[])


def artifact_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs of `artifact`."""
    verb = add("ls", "artifacts:ls", "list the files that a build left")
    _task(verb)
    verb = add("get", "artifacts:get", "fetch an artifact and check its digest")
    _task(verb)
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--host", default="", metavar="NAME", help="of this host (needed where several left one)")
    verb.add_argument("--to", default="", metavar="FILE", help="where to (default: its name, here); - for stdout")
    verb = add("provenance", "artifacts:provenance", "say where a build's artifacts come from, as SLSA provenance (JSON)")
    _task(verb)


def _task(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("task", metavar="ID", help="task id, its last characters, or `last`")
