"""The verbs of `fleetlog schedule` and their options, as one section of the command line's grammar."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.values import count, duration_ms, moment_ms, parameter, past_ms, positive, window

_AddVerb = Callable[..., argparse.ArgumentParser]


def schedule_verbs(verbs: _AddVerb) -> None:
    """Declare every verb of the group."""
    verb = verbs("ls", "schedules:ls", "list schedules: what, when, in what state, and when next")
    verb.add_argument("--definition", default="", metavar="NAME", help="only of this definition")
    verb.add_argument("--state", choices=("active", "inactive", "paused"), default="", help="only in this state")
    verb = verbs("show", "schedules:show", "show a schedule and its next times")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--next", dest="next_count", type=positive, default=5, metavar="N", help="how many next times (default 5)")
    _set_verb(verbs)
    verb = verbs("rm", "schedules:rm", "remove a schedule; its tasks and its ledger stay")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--reason", default="", help="why; kept in the log")
    for name, text in (
        ("start", "expect ticks of an inactive schedule from now on"),
        ("stop", "expect no ticks from now on"),
        ("resume", "let a paused schedule fire again"),
    ):
        verb = verbs(name, f"schedules:{name}", text)
        verb.add_argument("name", metavar="NAME")
        verb.add_argument("--reason", default="", help="why; kept in the log")
    verb = verbs("pause", "schedules:pause", "skip the ticks of a schedule; the ledger says so")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--reason", default="", help="why; needed, and kept in the log")
    verb.add_argument("--until", dest="until_ms", type=moment_ms, default=0, metavar="TIME", help="it resumes by itself then")
    verb.add_argument("--for", dest="for_ms", type=duration_ms, default=0, metavar="DURATION", help="it resumes by itself after this")
    verb = verbs("run", "schedules:run", "run now what a schedule runs; its ticks stay as they are")
    verb.add_argument("name", metavar="NAME")
    verb = verbs("backfill", "schedules:backfill", "run past ticks now: what is missing of a period, or all of it")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--from", dest="from_ms", type=moment_ms, required=True, metavar="TIME", help="ticks of this time or later")
    verb.add_argument("--until", dest="until_ms", type=moment_ms, required=True, metavar="TIME", help="ticks before this")
    verb.add_argument("--all", dest="everything", action="store_true", help="also ticks that were fired")
    verb.add_argument("--plan", action="store_true", help="only say which")
    verb.add_argument("--reason", default="", help="why; kept in the log")
    verb = verbs("ticks", "schedules:ticks", "show the ledger: what became of every expected time, newest decision first")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--outcome", choices=("fired", "missed", "skipped", "queued"), default="", help="only this fate")
    verb.add_argument("--limit", type=positive, default=20, metavar="N", help="how many (default 20)")
    _what_if_verb(verbs)
    verb = verbs("next", "schedules:next_times", "say when a schedule, or an expression, fires next")
    verb.add_argument("name", nargs="?", default="", metavar="NAME")
    verb.add_argument("--cron", default="", metavar="EXPRESSION", help="instead of a schedule: what this would do")
    verb.add_argument("--zone", default="UTC", help="with --cron: the time zone (default UTC)")
    verb.add_argument("--count", dest="next_count", type=positive, default=10, metavar="N", help="how many (default 10)")


def _set_verb(verbs: _AddVerb) -> None:
    verb = verbs("set", "schedules:set_schedule", "make a schedule of a definition, or change its rule")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("definition", metavar="DEFINITION")
    when = verb.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", default="", metavar="EXPRESSION", help="'30 2 * * mon-fri', six fields with seconds first, or @daily")
    when.add_argument("--every", dest="interval_ms", type=duration_ms, default=0, metavar="DURATION", help="on a fixed grid: 15m")
    when.add_argument("--at", dest="at_ms", type=moment_ms, default=0, metavar="TIME", help="once: 2026-12-24T18:00:00+01:00")
    when.add_argument("--manual", action="store_true", help="only by `schedule run`")
    verb.add_argument("--zone", default="UTC", help="whose wall clock --cron goes by (default UTC)")
    verb.add_argument("-t", "--target", default="", help="instead of the definition's own target")
    verb.add_argument("-p", "--parameter", action="append", default=[], type=parameter, metavar="NAME=VALUE", help="of the definition")
    verb.add_argument("--begins", dest="begins_ms", type=moment_ms, default=0, metavar="TIME", help="no tick before this; the grid of --every")
    verb.add_argument("--ends", dest="ends_ms", type=moment_ms, default=0, metavar="TIME", help="no tick after this")
    _policy_options(verb, "latest", "skip", "auto")
    verb.add_argument("--inactive", action="store_true", help="a new schedule waits for `schedule start`")
    verb.add_argument("--reason", default="", help="why; kept in the log")


def _policy_options(verb: argparse.ArgumentParser, misfire: str, overlap: str, moved: str) -> None:
    """Declare the options of a policy, with these defaults; empty: as it was."""
    verb.add_argument("--misfire", choices=("latest", "skip", "all"), default=misfire,
                      help="ticks that nobody could fire in time: catch up the latest (default), none, or all")
    verb.add_argument("--misfire-window", dest="misfire_window_ms", type=duration_ms, default=0, metavar="DURATION",
                      help="never fire a tick later than this (default 1d)")
    verb.add_argument("--misfire-runs", dest="misfire_runs_max", type=count, default=0, metavar="N",
                      help="with --misfire all: at most so many (default 10)")
    verb.add_argument("--overlap", choices=("allow", "skip", "queue-one", "cancel-running"), default=overlap,
                      help="while an earlier run is open (default skip)")
    verb.add_argument("--gap", choices=("auto", "run-after", "skip"), default=moved, help="a time of day that does not exist")
    verb.add_argument("--fold", choices=("auto", "first", "second", "both"), default=moved, help="a time of day that comes twice")
    verb.add_argument("--jitter", dest="jitter_ms", type=duration_ms, default=None, metavar="DURATION", help="fire up to this much later")
    verb.add_argument("--window", dest="windows", action="append", type=window, default=[], metavar="WINDOW",
                      help="skip what is outside of it: 'mon-fri 22:00 8h', by the clock of --zone; may be given several times")


def _what_if_verb(verbs: _AddVerb) -> None:
    verb = verbs("what-if", "what_if:what_if", "replay the past under another rule, and compare; touches nothing")
    verb.add_argument("names", nargs="*", metavar="NAME", help="schedules; none is all that ever were")
    verb.add_argument("--since", dest="since_ms", type=past_ms, required=True, metavar="TIME", help="from this time on, or so long ago: 7d")
    verb.add_argument("--until", dest="until_ms", type=past_ms, default=0, metavar="TIME", help="until this time (default now)")
    when = verb.add_mutually_exclusive_group()
    when.add_argument("--cron", default="", metavar="EXPRESSION", help="had it been this expression")
    when.add_argument("--every", dest="interval_ms", type=duration_ms, default=0, metavar="DURATION", help="had it been a fixed grid")
    verb.add_argument("--zone", default="", help="had its clock been this one")
    _policy_options(verb, "", "", "")
