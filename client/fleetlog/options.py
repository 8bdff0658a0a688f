"""The options of tasks: what `exec` and `run` take beside what they run. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse

from fleetlog.values import (
    count,
    duration_ms,
    env_value,
    octal,
    positive,
    quantity,
    secret_value,
    separated,
    share,
    shares,
    target,
    wave_numbers,
)


def following(verb: argparse.ArgumentParser) -> None:
    """Add the options of verbs that end in following a task."""
    verb.add_argument("--detach", action="store_true", help="print the task's id and leave")
    verb.add_argument("--yes", action="store_true", default=argparse.SUPPRESS, help="do not ask, whatever the number of hosts")


def task_options(verb: argparse.ArgumentParser, *, target_required: bool = True, target_help: str = "instead of a definition's own") -> None:
    """Add the options of `exec` and `run`; where none is required, *target_help* says what one means."""
    verb.add_argument("-t", "--target", type=target if target_required else str, required=target_required, default="", metavar="TARGET",
                      help="on which hosts" + ("" if target_required else f"; {target_help}"))
    following(verb)
    verb.add_argument("--plan", action="store_true", help="print which hosts would run what, wave by wave; run nothing")
    verb.add_argument("--plan-hash", default="", metavar="HASH", help="only if the plan is still the one that --plan printed")
    verb.add_argument("--name", default="", help="a name to find it by")
    verb.add_argument("--tag", action="append", default=[], metavar="TAG", help="a mark to filter by (repeatable)")
    _surroundings(verb)
    _limits(verb)
    _retries(verb)
    _admission(verb)
    _rollout(verb)


def _surroundings(verb: argparse.ArgumentParser) -> None:
    around = verb.add_argument_group("surroundings of the command")
    around.add_argument(
        "--env", action="append", default=[], type=env_value, metavar="K=V",
        help="environment; K alone takes its value from here (repeatable)",
    )
    around.add_argument(
        "--secret", action="append", default=[], type=secret_value, metavar="NAME[=@FILE]",
        help="environment whose value is read from here or a file and masked in output (repeatable)",
    )
    around.add_argument("--stdin", metavar="FILE", help="standard input; - for this one's")
    around.add_argument("--cwd", metavar="DIR", help="working directory on the host")
    around.add_argument("--user", help="run as this user")
    around.add_argument("--umask", type=octal, metavar="OCTAL", help="file mode mask")


def _limits(verb: argparse.ArgumentParser) -> None:
    limits = verb.add_argument_group("limits")
    limits.add_argument("--memory", type=quantity, metavar="SIZE", help="memory, as 512M")
    limits.add_argument("--files", type=positive, metavar="N", help="open files")
    limits.add_argument("--output-max", type=quantity, metavar="SIZE", help="output kept per command (default 10Mi)")
    limits.add_argument("--ok-codes", default=None, metavar="N,N", help="exit codes that count as success (default 0)")
    limits.add_argument(
        "--timeout", dest="timeout_ms", type=duration_ms, default=3_600_000, metavar="TIME",
        help="longest run of the command (default 1h)",
    )
    limits.add_argument("--task-timeout", dest="task_timeout_ms", type=duration_ms, default=0, metavar="TIME",
                        help="longest life of the whole task")
    limits.add_argument("--wait-offline", dest="wait_offline_ms", type=duration_ms, default=0, metavar="TIME",
                        help="wait so long for hosts that are offline (default: they are unreached at once)")
    limits.add_argument("--parallel", type=count, default=0, metavar="N", help="hosts at once (default: no limit)")


def _retries(verb: argparse.ArgumentParser) -> None:
    retry = verb.add_argument_group("retries")
    retry.add_argument("--retries", type=count, default=0, metavar="N", help="try again so often (default: never)")
    retry.add_argument("--retry-on", type=separated, default=(), metavar="OUTCOME,...",
                       help="outcomes to retry (default failure,timeout,error; `lost` may run it twice)")
    retry.add_argument("--backoff", dest="backoff_ms", type=duration_ms, default=1_000, metavar="TIME",
                       help="wait before the first retry; doubles (default 1s)")


def _admission(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("admission")
    group.add_argument("--priority", type=positive, default=5, metavar="N", help="from 1 to 10; a higher one goes first (default 5)")
    group.add_argument("--queue", default="default", metavar="NAME", help="share the limit of this queue")
    group.add_argument("--key", default="", help="what this is a run of; tasks with one key are runs of the same thing")
    group.add_argument("--key-parallel", type=count, default=0, metavar="N", help="hosts at once over all tasks with this key")
    group.add_argument("--single-run", choices=("refuse", "queue", "replace"), default="",
                       help="while an earlier task with this key is open: refuse this one, let it wait, or stop the earlier")
    group.add_argument("--any", dest="any_count", type=positive, default=0, metavar="N", help="on N of the target's hosts")
    group.add_argument("--by", dest="choose_by", choices=("load", "random"), default="",
                       help="with --any: the least loaded (the default), or any")
    group.add_argument("--spread", default="", metavar="LABEL", help="with --any: spread over the values of this label")
    group.add_argument("--one-per", default="", metavar="LABEL", help="on one host for each value of this label")
    group.add_argument("--ignore-windows", action="store_true",
                       help="outside maintenance windows and inside blackouts too; never against a freeze")


def _rollout(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("rollout")
    group.add_argument("--waves", type=shares, default=(), metavar="SIZE,...",
                       help="in waves: how many hosts are done after each, as 1,5%%,25%%,100%%")
    group.add_argument("--batch", type=share, default=None, metavar="SIZE", help="size of each further wave, as 10 or 5%%")
    group.add_argument("--canary", default="", metavar="TARGET", help="those of the hosts that this means go first")
    group.add_argument("--soak", dest="soak_ms", type=duration_ms, default=0, metavar="TIME",
                       help="wait so long after a wave before the next one begins")
    group.add_argument("--approve", type=wave_numbers, default=(), metavar="WAVES",
                       help="waves that wait for `fleetlog approve`: 2,4, or `all` (all after the first; so does 0)")
    group.add_argument("--max-failures", dest="failures_max", type=share, default=None, metavar="SIZE",
                       help="halt when more hosts than this fail, as 3 or 5%% (default with waves: 0, else no limit)")
