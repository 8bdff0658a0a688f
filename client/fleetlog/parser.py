"""The grammar of the command line: every verb, its options, and the function that does it.

Verbs name their function as text (`module:function`), so that building the parser loads none of them. The
reference in docs/cli.md is printed from here (`reference.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fleetlog.alert_options import alert_verbs, webhook_verbs
from fleetlog.build_options import artifact_verbs, build_verb, export_verb
from fleetlog.definition_options import definition_verbs, workflow_verbs
from fleetlog.file_options import file_verbs
from fleetlog.function_options import function_verbs
from fleetlog.meant import typed_text
from fleetlog.options import following, task_options
from fleetlog.schedule_options import schedule_verbs
from fleetlog.values import count, duration_ms, label, parameter, port, positive, separated, week_days

_SUPPRESS = argparse.SUPPRESS
DEFAULTS: dict[str, Any] = {
    "data": None, "url": None, "output_form": "table", "color": "auto", "wait_timeout_ms": None, "yes": False,
}
"""Values of the options that stand before or after the verb, when nobody gives them."""

TELL_FROZEN = frozenset({
    "exec", "run", "build", "rerun", "batch", "ls", "show", "watch", "why", "host ls", "doctor", "function run", "file run",
})
"""Verbs that say on stderr when something is frozen."""

EPILOG = (
    "ID is a task's id, its last characters (at least 6), or `last`. TARGET is names, globs, ranges and labels:"
    " web01, 'web*', 'web[01-40]', 'env=prod and role in (web, api) and not dc=b', all."
    " What is only a-z 0-9 _ - is the NAME of a definition; any other word is a FILE: ./deploy, deploy.sh."
    " Exit codes: `fleetlog help exit-codes`."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Say what was typed wrong and what to read, and leave with 2."""
        self.exit(2, f"{self.prog}: {typed_text(message)}\n  see: {self.prog} --help\n")


def _global_options(*, wait_alias: bool) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False, argument_default=_SUPPRESS)
    group = parent.add_argument_group("everywhere")
    group.add_argument("--data", metavar="DIR", help="data folder (default: FLEETLOG_DATA, ~/.local/share/fleetlog)")
    group.add_argument("--url", help="address of the gateway (default: FLEETLOG_URL, or the data folder's)")
    group.add_argument("-o", "--output", dest="output_form", choices=("table", "json"), help="form of the answer")
    group.add_argument("--color", choices=("auto", "always", "never"), help="colours (default: on a terminal)")
    names = ["--wait-timeout", "--timeout"] if wait_alias else ["--wait-timeout"]
    group.add_argument(
        *names, dest="wait_timeout_ms", type=duration_ms, metavar="TIME",
        help="stop waiting after this (exit 7); the task goes on",
    )
    return parent


_AddVerb = Callable[..., argparse.ArgumentParser]


def build() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="fleetlog", description="Run tasks on a fleet of hosts; everything that happens is an event in one log.",
        epilog=EPILOG, parents=[_global_options(wait_alias=False)],
    )
    parser.add_argument("--version", action="store_true", default=False, help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    add = _adder(verbs, "")
    for section in (
        _running, _definitions, _files, _functions, _workflows, _schedules, _alerts, _steering, _policies, _looking, _hosts, _agent, _numbers,
        _archive, _backup, _system,
    ):
        section(add)
    return parser


def _adder(verbs: Any, prefix: str) -> _AddVerb:
    def add(
        name: str, run: str, text: str, *, aliases: tuple[str, ...] = (), wait_alias: bool = True,
        usage: str | None = None,
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(
            name, aliases=aliases, help=text, description=text[0].upper() + text[1:] + ".", usage=usage,
            parents=[_global_options(wait_alias=wait_alias)],
        )
        parser.set_defaults(run=f"fleetlog.verbs.{run}" if ":" in run else "", path=f"{prefix}{name}")
        return parser

    return add


def _group(add: _AddVerb, name: str, text: str) -> _AddVerb:
    parser = add(name, "", text)
    subverbs = parser.add_subparsers(dest="subverb", metavar="VERB", required=True, title="verbs")
    return _adder(subverbs, f"{name} ")


def _running(add: _AddVerb) -> None:
    verb = add(
        "exec", "submit:exec_argv", "run a program on hosts", wait_alias=False,
        usage="fleetlog exec -t TARGET [options] (-- ARGV... | -c STRING)",
    )
    verb.add_argument("-c", dest="shell_text", metavar="STRING", help="run this text with /bin/sh -c")
    task_options(verb)
    verb.set_defaults(rest=[])
    verb = add(
        "run", "runs:run", "run a definition, or a script, on hosts", wait_alias=False,
        usage="fleetlog run (NAME [-p PARAMETER=VALUE ...] | FILE -t TARGET [options] [-- ARGS...])",
    )
    verb.add_argument("file", metavar="NAME|FILE", help="a definition (a-z 0-9 _ -), or a script: anything else, as ./deploy;"
                      " it is sent to the hosts by its digest")
    verb.add_argument("-p", "--parameter", action="append", default=[], type=parameter, metavar="NAME=VALUE",
                      help="of a definition; repeated for the items of a list (secrets: --secret NAME)")
    verb.add_argument("--narrow", default="", metavar="TARGET", help="only those of the definition's hosts that this means too")
    verb.add_argument("--version", dest="definition_version", type=positive, default=0, metavar="N",
                      help="an earlier version of the definition (default: the present one)")
    verb.add_argument("--interpreter", metavar="PROGRAM", help="what runs it (default: its #! line, else /bin/sh)")
    task_options(verb, target_required=False)
    verb.set_defaults(rest=[])
    build_verb(add(
        "build", "builds:build", "run steps on hosts, one after the other, and keep the files that they make", wait_alias=False,
    ))
    artifact_verbs(_group(add, "artifact", "artifacts: the files that builds left, by digest"))
    export_verb(add(
        "export", "exports:export", "write tasks, commands, events, output or artifacts to a file, here or on a host", wait_alias=False,
    ))
    verb = add("rerun", "submit:rerun", "run a task again, on all of its hosts or on those where it failed")
    _task_argument(verb)
    verb.add_argument("--failed", action="store_true", help="only hosts with failure, timeout, error or unreached")
    verb.add_argument("--include-lost", action="store_true", help="with --failed: also where it may have run")
    verb.add_argument("--outcome", dest="outcomes", type=separated, default=(), metavar="OUTCOME,...",
                      help="only hosts that ended exactly so, as unreached or lost")
    verb.add_argument("--part", action="append", default=[], metavar="NAME",
                      help="of a workflow: this part, and what comes after it (repeatable)")
    verb.add_argument("--latest", action="store_true",
                      help="with the present version of its definition (default: the version that it ran)")
    following(verb)
    verb = add("batch", "batch:batch", "submit a task for each line of a file")
    verb.add_argument("file", metavar="FILE", help='JSON, one task per line: {"argv": [...], "target": "web*"}, or a whole'
                      " specification; - for stdin")
    verb.add_argument("--wait", action="store_true", help="follow them until all have ended")


def _schedules(add: _AddVerb) -> None:
    schedule_verbs(_group(add, "schedule", "schedules: when a definition is run, and what became of every expected time"))


def _files(add: _AddVerb) -> None:
    file_verbs(_group(add, "file", "task files: scripts that the server keeps, with every version"))


def _alerts(add: _AddVerb) -> None:
    alert_verbs(_group(add, "alert", "alerts: what a person should look at"))
    webhook_verbs(_group(add, "webhook", "webhooks: who is told of ends and alerts, by HTTP"))


def _functions(add: _AddVerb) -> None:
    function_verbs(_group(add, "function", "functions: Python functions that hosts offer, run as tasks"))


def _workflows(add: _AddVerb) -> None:
    workflow_verbs(_group(add, "workflow", "workflows: tasks one after the other and beside each other, as parts of one task"))


def _definitions(add: _AddVerb) -> None:
    definition_verbs(_group(add, "definition", "definitions: what can be run again, with parameters; kept as files if you like"))


def _steering(add: _AddVerb) -> None:
    verb = add("cancel", "control:cancel", "stop a task, its commands on some hosts, or everything")
    verb.add_argument("task", metavar="ID", nargs="?", default="", help="task id, its last characters, or `last`")
    verb.add_argument("--all", dest="everything", action="store_true", help="every task that is open now")
    verb.add_argument("--host", action="append", default=[], metavar="NAME", help="only on this host (repeatable)")
    verb.add_argument("--part", action="append", default=[], metavar="NAME", help="only this part of a workflow (repeatable)")
    _reason(verb)
    verb.add_argument("--yes", action="store_true", default=_SUPPRESS, help="with --all: do not ask")
    verb.add_argument("--detach", action="store_true", help="do not wait until every host has confirmed")
    for name, text in (
        ("pause", "let a task start nothing more until it is resumed; what runs goes on"),
        ("resume", "let a paused or halted task go on"),
        ("abort", "let a task start nothing more for good: what waits is skipped, what runs goes on"),
    ):
        verb = add(name, f"control:{name}", text)
        _task_argument(verb)
        _reason(verb)
    verb = add("approve", "control:approve", "let the next wave of a task begin")
    _task_argument(verb)
    verb.add_argument("--wave", type=positive, default=0, metavar="N",
                      help="all waves up to this one (default: the next one that waits for approval)")
    _reason(verb)
    verb = add("skip", "control:skip", "let a task pass over hosts that still wait")
    _task_argument(verb)
    verb.add_argument("--host", action="append", required=True, metavar="NAME", help="this host (repeatable)")
    _reason(verb)


def _policies(add: _AddVerb) -> None:
    verb = add("freeze", "policies:freeze", "let hosts get no more work until they are thawed; what runs goes on")
    verb.add_argument("-t", "--target", default="all", metavar="TARGET", help="which hosts (default: all)")
    verb.add_argument("--reason", required=True, help="why; shown on every screen, and kept in the log")
    verb = add("thaw", "policies:thaw", "end a freeze")
    verb.add_argument("freeze", metavar="ID", nargs="?", default="",
                      help="which; its id or the last characters of it (default: the only one)")
    verb.add_argument("--all", dest="everything", action="store_true", help="all of them")
    _reason(verb)
    verbs = _group(add, "window", "times of the week in which hosts may, or may not, get work")
    verbs("ls", "policies:window_ls", "list windows")
    verb = verbs("set", "policies:window_set", "make a window, or change it")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("-t", "--target", required=True, metavar="TARGET", help="which hosts")
    kind = verb.add_mutually_exclusive_group(required=True)
    kind.add_argument("--blackout", dest="kind", action="store_const", const="blackout", help="nothing starts inside it")
    kind.add_argument("--maintenance", dest="kind", action="store_const", const="maintenance",
                      help="things start only inside it")
    verb.add_argument("--days", type=week_days, required=True, metavar="DAYS", help="on which it begins: mon-fri,sun, or daily")
    verb.add_argument("--at", dest="begins", required=True, metavar="HH:MM", help="when it begins")
    verb.add_argument("--for", dest="lasts_ms", type=duration_ms, required=True, metavar="TIME", help="how long it lasts")
    verb.add_argument("--zone", default="UTC", help="time zone of --at, as Europe/Berlin (default UTC)")
    _reason(verb)
    verb = verbs("rm", "policies:window_rm", "remove a window")
    verb.add_argument("name", metavar="NAME")
    _reason(verb)
    verbs = _group(add, "queue", "queues: how many commands of each are in flight at once")
    verbs("ls", "policies:queue_ls", "list queues that have a limit, or something in them")
    verb = verbs("limit", "policies:queue_limit", "limit how many commands of a queue are in flight at once")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("in_flight_max", type=count, metavar="N", help="so many; 0: no limit")
    _reason(verb)
    add("admission", "policies:admission", "say what narrows admission now: freezes, windows, queues, busy hosts")


def _reason(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--reason", default="", help="why; kept in the log")


def _task_argument(verb: argparse.ArgumentParser, *, optional: bool = False) -> None:
    nargs = "?" if optional else None
    verb.add_argument("task", metavar="ID", nargs=nargs, default="last" if optional else None,
                      help="task id, its last characters, or `last`" + (" (the default)" if optional else ""))


def _as_of(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--as-of", default="", metavar="SEQ|TIME", help="as it was at a log sequence or RFC 3339 time")


def _period(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--since", type=duration_ms, default=0, metavar="TIME", help="only the last TIME, as 7d")


def _looking(add: _AddVerb) -> None:
    verb = add("ls", "tasks:ls", "list tasks, newest first")
    verb.add_argument("--limit", type=positive, default=20, help="how many (default 20)")
    for name in ("state", "outcome", "kind", "host", "name", "tag", "definition", "schedule"):
        verb.add_argument(f"--{name}", default="", help=f"only tasks with this {name}")
    verb.add_argument("--part-of", default="", metavar="ID", help="only the tasks of this workflow's parts")
    verb.add_argument("--parts", action="store_true", help="also the tasks of workflows' parts")
    verb.add_argument("--by", dest="submitted_by", default="", metavar="WHO", help="only tasks that WHO asked for")
    _period(verb)
    _as_of(verb)
    verb = add("show", "tasks:show", "show everything about a task")
    _task_argument(verb, optional=True)
    _as_of(verb)
    verb = add("watch", "submit:watch", "follow a task until it ends")
    _task_argument(verb, optional=True)
    verb = add("why", "why:why", "say why a task failed, or what it waits for")
    _task_argument(verb, optional=True)
    verb.add_argument("--host", default="", metavar="NAME", help="what its command on this host waited for, and when")
    verb = add("output", "output:output", "print what a task's commands wrote", aliases=("logs",))
    _task_argument(verb, optional=True)
    verb.add_argument("--host", action="append", default=[], metavar="NAME", help="of this host (repeatable)")
    verb.add_argument("--failed", action="store_true", help="of the hosts where it did not succeed")
    verb.add_argument("-f", "--follow", action="store_true", help="go on until the commands have ended")
    verb.add_argument("--tail", type=count, default=0, metavar="N", help="only the last N lines")
    verb.add_argument("--stream", choices=("stdout", "stderr"), default="", help="only this stream")
    verb.add_argument("--attempt", type=count, default=0, metavar="N", help="of this attempt (default: the last)")
    verb.add_argument("--group", action="store_true", help="hosts that wrote the same stand together")
    verb.add_argument("--raw", action="store_true", help="with escape sequences, as the host wrote it (not to a terminal)")
    verb = add("events", "events:events", "print events of the log, of a task or of all")
    verb.add_argument("task", metavar="ID", nargs="?", default="", help="task id, its last characters, or `last`")
    verb.add_argument("-f", "--follow", action="store_true", help="go on with what happens now")
    verb.add_argument("--type", default="", help="only this type, as fleetlog.task.ended.v1")
    verb.add_argument("--host", default="", metavar="NAME", help="only what touches this host")
    verb.add_argument("--after", dest="after_seq", type=count, default=0, metavar="SEQ", help="after this sequence")
    verb.add_argument("--limit", type=positive, default=100, help="how many (default 100)")
    verb = add("replay", "tasks:replay", "fold a task's events from the log alone; the same answer as show")
    _task_argument(verb, optional=True)


def _hosts(add: _AddVerb) -> None:
    verbs = _group(add, "host", "hosts: list, show, add, label, take out of work, let in, revoke")
    verb = verbs("ls", "hosts:ls", "list hosts")
    verb.add_argument("--presence", default="", help="only online, offline, refused, revoked or joined")
    verb.add_argument("--label", default="", metavar="K[=V]", help="only hosts with this label")
    _as_of(verb)
    verb = verbs("show", "hosts:show", "show everything about a host")
    verb.add_argument("name", metavar="NAME")
    verb = verbs("add", "hosts:add", "print the line that joins a machine; it works once, within 15 minutes")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--label", action="append", default=[], type=label, metavar="K=V", help="label (repeatable)")
    verb = verbs("label", "hosts:label", "set labels (K=V) or remove them (K-)")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("labels", nargs="+", type=label, metavar="K=V|K-")
    verb = verbs("maintenance", "hosts:maintenance", "take a host out of work, or give it back")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("switch", choices=("on", "off"))
    _reason(verb)
    verb = verbs("accept", "hosts:accept", "let a refused host in again, after looking at the machine")
    verb.add_argument("name", metavar="NAME", nargs="?", default="")
    verb.add_argument("--restored", action="store_true", help="every host that is refused because the log was restored")
    verb.add_argument("--yes", action="store_true", default=_SUPPRESS, help="with --restored: do not ask")
    _reason(verb)
    verb = verbs("revoke", "hosts:revoke", "refuse a host's key from now on")
    verb.add_argument("name", metavar="NAME")
    _reason(verb)


def _agent(add: _AddVerb) -> None:
    verb = add("agent", "agent:agent", "the agent on this host: run, join, ps, status",
               usage="fleetlog agent {run,join,ps,status} ...")
    verb.add_argument("rest", nargs=argparse.REMAINDER, help=_SUPPRESS)


def _numbers(add: _AddVerb) -> None:
    verb = add("stats", "numbers:stats", "counts, success rate and durations of ended commands")
    verb.add_argument("--by", choices=("kind", "host", "day", "definition"), default="kind", help="one line for each (default kind)")
    verb.add_argument("--kind", default="", help="only this kind")
    verb.add_argument("--host", default="", metavar="NAME", help="only this host")
    verb.add_argument("--definition", default="", metavar="NAME", help="only tasks of this definition")
    _period(verb)
    _as_of(verb)
    verb = add("sql", "numbers:sql", "ask the projection in SQL, read-only")
    verb.add_argument("query", help="one statement; - reads it from stdin")
    verb.add_argument("--limit", type=positive, default=1000, help="rows (default 1000)")
    _as_of(verb)
    verbs = _group(add, "verify", "compare what is derived with the log")
    verbs("projection", "numbers:verify_projection", "rebuild the projection from the log and compare")
    verbs("log", "nodes:verify_log", "compare the copies of the log on all nodes, message by message")


def _backup(add: _AddVerb) -> None:
    verbs = _group(add, "backup", "copy the whole system to a folder, check such a copy, start again from it")
    verb = verbs("create", "backup:create", "copy the system of the data folder to a new folder, running or stopped")
    verb.add_argument("folder", metavar="DIR", help="a new folder; it holds secrets, and only its owner may enter it")
    verb.add_argument("--with-output", action="store_true", help="also what commands wrote (the stream OUTPUT)")
    verb.add_argument("--with-agents", action="store_true", help="also the folders of agents that `up` runs on this machine")
    for name, text in (
        ("verify", "check every file of a backup against its manifest"),
        ("show", "show what a backup holds, without reading its files"),
    ):
        verb = verbs(name, f"backup:{name}", text)
        verb.add_argument("folder", metavar="DIR", help="the backup")
    verb = verbs("ls", "backup:ls", "list the backups in a folder, oldest first")
    verb.add_argument("folder", metavar="FOLDER", help="where they are")
    verb = verbs("restore", "backup:restore", "make the data folder from a backup, where there is none")
    verb.add_argument("folder", metavar="DIR", help="the backup; --data names the new data folder")


def _archive(add: _AddVerb) -> None:
    verbs = _group(add, "archive", "the log's past: what is archived, whether it is whole, what is in it")
    verbs("ls", "archive:ls", "list what is archived, and how far the bus was pruned")
    for name, text in (
        ("verify", "read every segment whole and compare it with the log"),
        ("read", "print archived events, one JSON object per line; nothing else needs to run"),
    ):
        verb = verbs(name, f"archive:{name}", text)
        verb.add_argument("--folder", default="", metavar="DIR", help="the archive (default: keeper.archive_path, or archive/)")
        if name == "read":
            verb.add_argument("from_seq", nargs="?", type=positive, default=1, metavar="SEQ", help="from this sequence on")
            verb.add_argument("--limit", type=positive, default=100, metavar="N", help="how many (default 100)")


def _system(add: _AddVerb) -> None:
    verb = add("up", "up:up", "start the whole system on this machine; Ctrl-C stops it")
    verb.add_argument("--listen", default="", metavar="ADDR", help="take agents and clients of other machines, by TLS")
    verb.add_argument("--port", type=port, metavar="N", help="port of the gateway (default 8420; 0: a free one)")
    verb.add_argument("--processes", action="store_true", help="each service in a process of its own, restarted")
    verb.add_argument("--no-agent", action="store_true", help="no agent on this machine")
    verb.add_argument("--cluster", action="append", default=[], metavar="NAME=ADDRESS[:PORT[:PORT]]",
                      help="a node of the cluster, with the ports of its bus and of its routes (repeat for all nodes)")
    verb.add_argument("--node", default="", metavar="NAME", help="which of them this is (default: by its address)")
    verb.add_argument("--no-services", action="store_true", help="only the bus: no services and no agent")
    verb.add_argument("--set", action="append", default=[], metavar="GROUP.NAME=VALUE", help="a setting (repeatable)")
    verbs = _group(add, "node", "nodes of a cluster: carry the keys from the first to the others")
    verb = verbs("export", "nodes:export", "write the keys of this folder to a file, for the other nodes")
    verb.add_argument("file", metavar="FILE", help="a file that is made, for its owner only")
    verb = verbs("import", "nodes:import_keys", "take over the keys of the first node, before the first start")
    verb.add_argument("file", metavar="FILE", help="what `fleetlog node export` wrote")
    add("doctor", "doctor:doctor", "check the system and say what to do")
    add("version", "about:version", "print the versions of this client and of the gateway")
    verb = add("help", "about:help_topic", "explain a topic")
    verb.add_argument("topic", nargs="?", default="", help="exit-codes, or a verb")
    verb = add("completion", "about:completion", "print completion for a shell")
    verb.add_argument("shell", choices=("bash", "zsh", "fish"))
