"""The verbs of definitions and of workflows, which are kept in the same files. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.options import following
from fleetlog.values import parameter, positive

AddVerb = Callable[..., argparse.ArgumentParser]


def definition_verbs(verbs: AddVerb) -> None:
    """Add the verbs of `fleetlog definition`."""
    verb = verbs("ls", "definitions:ls", "list definitions")
    for name, what in (("kind", "this kind"), ("name", "names that fit this glob"), ("tag", "this tag")):
        verb.add_argument(f"--{name}", default="", help=f"only {what}")
    for name, text in (
        ("show", "show a definition, as its file would be"), ("schema", "print what its parameters may be, as JSON Schema"),
    ):
        verb = verbs(name, f"definitions:{name}", text)
        verb.add_argument("name", metavar="NAME")
        verb.add_argument("--version", dest="definition_version", type=positive, default=0, metavar="N",
                          help="an earlier version (default: the present one)")
    verb = verbs("history", "definitions:history", "list the versions of a definition, newest first")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--limit", type=positive, default=20, help="how many (default 20)")
    verb = verbs("rm", "definitions:rm", "remove a definition; its tasks keep their past")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--version", dest="definition_version", type=positive, default=0, metavar="N", help="only if it still is this one")
    verb.add_argument("--message", default="", help="why; kept in the log")
    verb = verbs("push", "definition_files:push", "make and change definitions as files say")
    verb.add_argument("paths", nargs="+", metavar="FILE|DIR", help="a file, or a folder with NAME.toml files")
    verb.add_argument("--message", default="", help="what is new; kept in the log with each version")
    verb.add_argument("--force", action="store_true", help="whatever version there is by now; the file is left as it is")
    verb.add_argument("--prune", action="store_true", help="remove the definitions that the folders do not have, after asking")
    verb.add_argument("--yes", action="store_true", default=argparse.SUPPRESS, help="with --prune: do not ask")
    verb = verbs("pull", "definition_files:pull", "write definitions to files")
    verb.add_argument("names", nargs="*", metavar="NAME")
    verb.add_argument("--all", dest="everything", action="store_true", help="every definition")
    verb.add_argument("--to", default=".", metavar="DIR", help="into this folder (default: this one)")
    verb = verbs("diff", "definition_files:diff", "compare versions of a definition, or files with what is there")
    verb.add_argument("paths", nargs="+", metavar="NAME [V1 [V2]] | FILE|DIR ...",
                      help="a definition: its last two versions, V1 and the present one, or V1 and V2; else files")


def workflow_verbs(verbs: AddVerb) -> None:
    """Add the verbs of `fleetlog workflow`."""
    verb = verbs("check", "workflows:check", "check a workflow's file, and print the order of its parts; runs nothing")
    verb.add_argument("file", metavar="FILE")
    verb = verbs("run", "workflows:run", "run a workflow's file, which becomes no definition by that")
    verb.add_argument("file", metavar="FILE")
    verb.add_argument("-p", "--parameter", action="append", default=[], type=parameter, metavar="NAME=VALUE",
                      help="of the workflow; repeated for the items of a list")
    verb.add_argument("--plan", action="store_true", help="print in which order what would run where; run nothing")
    verb.add_argument("--plan-hash", default="", metavar="HASH", help="only if the plan is still the one that --plan printed")
    following(verb)
