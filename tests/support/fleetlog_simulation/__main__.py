"""`just simulate`: one seed again, as many new ones as wanted, or a year; what fails prints the command that repeats it."""

from __future__ import annotations

import argparse
import random
import sys
import time

from fleetlog_simulation.directed import History, Tame
from fleetlog_simulation.histories import HISTORIES
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import simulate
from fleetlog_simulation.year import YEAR_DAYS, simulate_year

DIRECTED = {history.__name__: history for history in HISTORIES}
COUNT = 100
SEED_MAX = 2**31


def run_one(seed: int, history: History) -> bool:
    """Run one seed, print what came of it, and tell whether every invariant held."""
    began = time.perf_counter()
    try:
        found = history(seed)
    except (Violation, Tame) as error:
        print(f"seed {seed}: {error}", *error.__notes__, sep="\n  ")
        return False
    print(
        f"seed {seed}: digest {found.digest}, {found.events} events, {found.executions} executions, {found.pruned} pruned,"
        f" {found.steps} steps, {time.perf_counter() - began:.2f} s"
    )
    return True


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="just simulate", description="Run the simulation of the whole fleet.")
    parser.add_argument("seed", nargs="?", type=int, help="this seed alone; it replays exactly")
    parser.add_argument("--count", type=int, default=COUNT, help=f"new seeds (default {COUNT})")
    parser.add_argument("--first", type=int, default=None, metavar="SEED", help="count from here instead of by chance")
    parser.add_argument("--directed", choices=DIRECTED, help="this history, at the pace of the seed, instead of chance")
    parser.add_argument("--year", type=int, metavar="SEED", help="a year in the life of a small fleet, from this seed")
    parser.add_argument("--days", type=int, default=YEAR_DAYS, help=f"with --year: only so many days (default {YEAR_DAYS})")
    options = parser.parse_args()
    if options.year is not None:
        return 0 if run_one(options.year, lambda seed: simulate_year(seed, options.days)) else 1
    history = DIRECTED.get(options.directed, simulate)
    if options.seed is not None:
        return 0 if run_one(options.seed, history) else 1
    first = random.randrange(SEED_MAX) if options.first is None else options.first
    failed = sum(not run_one(seed, history) for seed in range(first, first + options.count))
    print(f"{options.count - failed} of {options.count} seeds from {first} held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
