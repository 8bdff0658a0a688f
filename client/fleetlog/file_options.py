"""The verbs of `fleetlog file`. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.options import task_options
from fleetlog.values import positive

AddVerb = Callable[..., argparse.ArgumentParser]


def file_verbs(verbs: AddVerb) -> None:
    """Add the verbs of `fleetlog file`."""
    verb = verbs("ls", "files:ls", "list task files")
    verb.add_argument("path", metavar="GLOB", nargs="?", default="", help="only those whose path fits; * also stands for slashes")
    verb.add_argument("--removed", action="store_true", help="those that were removed, which can be restored")
    verb = verbs("show", "files:show", "print a file, as it is or as it was")
    _path(verb)
    _version(verb)
    verb = verbs("history", "files:history", "list the versions of a file")
    _path(verb)
    verb = verbs("push", "files:push", "save files: make them, or change them")
    verb.add_argument("files", nargs="+", metavar="FILE", help="of this machine")
    verb.add_argument("--as", dest="as_path", default="", metavar="PATH", help="its path on the server (default: as it is written, of one FILE)")
    verb.add_argument("--version", dest="file_version", type=positive, default=0, metavar="N",
                      help="only if this still is the newest version (default: whatever there is)")
    _message(verb)
    verb = verbs("pull", "files:pull", "write files to this machine")
    verb.add_argument("paths", nargs="+", metavar="PATH")
    verb.add_argument("--to", default=".", metavar="DIR", help="into this folder (default: this one)")
    _version(verb)
    verb = verbs("edit", "files:edit", "change a file with $EDITOR; what somebody else saved meanwhile is never overwritten")
    _path(verb)
    _message(verb)
    verb = verbs("rm", "files:rm", "remove a file; its versions can be restored")
    _path(verb)
    verb.add_argument("--version", dest="file_version", type=positive, default=0, metavar="N", help="only if this still is the newest")
    _message(verb)
    verb = verbs("restore", "files:restore", "let a file be again what a version was, also one that was removed")
    _path(verb)
    verb.add_argument("--version", dest="file_version", type=positive, required=True, metavar="N")
    _message(verb)
    verb = verbs("diff", "files:diff", "compare two versions of a file: the last two, V1 and the newest, or V1 and V2")
    _path(verb)
    verb.add_argument("versions", nargs="*", type=positive, metavar="V")
    verb = verbs("check", "files:check", "check the syntax of files of this machine; saves nothing")
    verb.add_argument("files", nargs="+", metavar="FILE")
    verb = verbs(
        "run", "files:run", "run a file on hosts, by its digest", wait_alias=False,
        usage="fleetlog file run PATH[@VERSION] -t TARGET [options] [-- ARGS...]",
    )
    verb.add_argument("path", metavar="PATH[@VERSION]", help="of which version; the newest one otherwise")
    verb.add_argument("--interpreter", metavar="PROGRAM", help="what runs it (default: what it was saved with)")
    task_options(verb)
    verb.set_defaults(rest=[])


def _path(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("path", metavar="PATH")


def _version(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--version", dest="file_version", type=positive, default=0, metavar="N", help="which version (default: the newest)")


def _message(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--message", default="", help="what is new, or why; kept in the log")
