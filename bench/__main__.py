"""`python -m bench`: every figure in one run, the machine's own limits first, as a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench import machine, measure
from bench.archive import archive
from bench.decisions import decisions
from bench.exports import exports
from bench.figures import Figure, as_table, write_json
from bench.fleet import fleet
from bench.functions import functions
from bench.history import history
from bench.memory import memory
from bench.output import output
from bench.projection import projection
from bench.questions import ask_much
from bench.schedules import schedules
from bench.system import BenchError, load_is_calm

TRACED_HOSTS_MAX = 2_000
"""Counting every allocation is slow, and a host costs the same among any number."""
MANY_SLOTS = 64
"""With the default of 4, throughput is 4 divided by the time of one round trip; with more, the machine is the limit."""

Section = Callable[[argparse.Namespace, dict[str, Figure]], list[Figure]]


def _machine(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return machine.limits(options.rounds)


def _one_host(options: argparse.Namespace, known: dict[str, Figure]) -> list[Figure]:
    starts = next((one for name, one in known.items() if "process starts" in name), None) or machine.process_starts(1)
    with measure.fresh_system() as system:
        figures = measure.idle(system) + measure.shell_latency(system) + measure.command_line(system)
        figures.append(measure.throughput(system, options.tasks, options.rounds, starts.median, slots=4))
    with measure.fresh_system("--set", f"dispatcher.slots_per_host={MANY_SLOTS}") as system:
        figures.append(measure.throughput(system, options.tasks, options.rounds, starts.median, slots=MANY_SLOTS))
    return figures


def _functions(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return functions(options.tasks, options.rounds)


def _start(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return measure.start_up(options.rounds)


def _agents(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    with measure.fresh_system("--no-agent") as system:
        seconds = system.join(options.agents, "real")
        name = f"one task on {options.agents} real agents"
        fan = measure.fan_out(system, "bench=real", options.agents, options.rounds, name)
        return [fan, Figure(f"{options.agents} agents joined and online", "s", (seconds,))]


def _crowd(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    name = f"one task on {options.crowd} simulated agents"
    with measure.fresh_system("--no-agent") as system, measure.crowd(system, options.crowd):
        return [measure.fan_out(system, "bench=sim", options.crowd, options.rounds, name)]


def _projection(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return projection(options.attempts, options.rounds)


def _output(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    with measure.fresh_system() as system:
        return output(system, options.megabytes, options.rounds)


def _history(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return history(options.events, options.tasks, options.rounds)


def _decisions(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return decisions(options.hosts, options.rounds)


def _memory(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return memory(min(options.hosts, TRACED_HOSTS_MAX))


def _fleet(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return fleet(options.fleet, options.rounds)


def _questions(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return ask_much(options.commands, options.rounds)


def _exports(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return exports(options.rows)


def _schedules(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return schedules(options.schedules)


def _archive(options: argparse.Namespace, _: dict[str, Figure]) -> list[Figure]:
    return archive(options.events, options.rounds)


SECTIONS: dict[str, Section] = {
    "machine": _machine, "start": _start, "one-host": _one_host, "functions": _functions, "agents": _agents, "crowd": _crowd, "output": _output,
    "projection": _projection, "history": _history, "archive": _archive, "decisions": _decisions, "memory": _memory,
    "fleet": _fleet, "questions": _questions, "exports": _exports, "schedules": _schedules,
}
ASKED_FOR = ("fleet", "questions", "exports", "schedules")
"""Sections that take minutes, and run only when they are named."""


def arguments() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(prog="just bench", description="Measure fleetlog and this machine in one run.")
    parser.add_argument("--only", action="append", choices=tuple(SECTIONS), help="only this section (repeatable)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample here")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each figure (default 5)")
    parser.add_argument("--tasks", type=int, default=3_000, help="tasks of the throughput figure (default 3000)")
    parser.add_argument("--agents", type=int, default=50, help="real agents of the fan-out (default 50)")
    parser.add_argument("--crowd", type=int, default=1_000, help="simulated agents (default 1000)")
    parser.add_argument("--hosts", type=int, default=10_000, help="hosts of the decision figures (default 10000)")
    parser.add_argument("--megabytes", type=int, default=100, help="what the one command of the output figures writes (default 100)")
    parser.add_argument("--events", type=int, default=200_000, help="events of the history figures (default 200000)")
    parser.add_argument("--fleet", type=int, default=10_000, help="simulated agents of the section `fleet` (default 10000)")
    parser.add_argument("--commands", type=int, default=10_000_000, help="ended commands of the section `questions` (default 10000000)")
    parser.add_argument("--rows", type=int, default=300_000, help="rows of each export of the section `exports` (default 300000)")
    parser.add_argument("--schedules", type=int, default=10_000, help="schedules of the section `schedules` (default 10000)")
    parser.add_argument("--attempts", type=int, default=100_000, help="attempts of the projection figure (default 100000)")
    return parser.parse_args()


def main() -> int:
    """Run the sections; one that cannot be measured is said so and fails the run at its end."""
    options = arguments()
    about = machine.about()
    if not load_is_calm():
        sys.stderr.write("bench: this machine is busy; the figures will say more about that than about fleetlog\n")
    found: dict[str, Figure] = {}
    failed = []
    for name in options.only or [one for one in SECTIONS if one not in ASKED_FOR]:
        sys.stderr.write(f"bench: {name} ...\n")
        try:
            figures = SECTIONS[name](options, found)
        except BenchError as error:
            failed.append(name)
            sys.stderr.write(f"bench: {name} could not be measured: {error}\n")
            continue
        found.update({one.name: one for one in figures})
        sys.stdout.write(as_table(figures) + "\n\n")
        sys.stdout.flush()
    sys.stdout.write(f"{as_table(list(found.values()))}\n")
    if options.json:
        write_json(list(found.values()), about, options.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
