"""`just torture`: run the checker for a time, with a mix of faults, from a seed; print its table; exit 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
import structlog

from fleetlog_checker.faults import FAULTS
from fleetlog_checker.judging import Verdict, Violation, judge
from fleetlog_checker.run import WRITERS, Course, Options, Run
from fleetlog_checker.single import OneMachine
from fleetlog_checker.table import again, text
from fleetlog_checker.three import ThreeNodes
from fleetlog_checker.timings import REPORT_S_MAX, Timings, measure
from fleetlog_testing import namespaces

EXIT_VIOLATED, EXIT_USAGE, EXIT_BROKE, EXIT_INTERRUPTED = 1, 2, 3, 130
AGENTS = 6
AGENTS_MAX = 200
SEED_MAX = 2**31


class Report(msgspec.Struct):
    """Everything about one run, for programs."""

    options: Options
    verdict: Verdict
    timings: Timings
    course: Course
    folder: str
    again: str


def main(words: list[str] | None = None) -> int:
    """Read the arguments and run."""
    options, folder, as_json = _read(words)
    # Our own connections break as all others do; that is no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    print(f"seed {options.seed}; evidence in {folder}", file=sys.stderr)
    system = (ThreeNodes if options.nodes > 1 else OneMachine)(folder / "system", options.agents)
    run = Run(system, options, folder)
    try:
        asyncio.run(_until_signalled(run))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print(f"interrupted, and everything was ended; evidence in {folder}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except AssertionError as error:
        print(f"no verdict: {error}\nevidence in {folder}; again: ./run torture {again(options)}", file=sys.stderr)
        return EXIT_BROKE
    finally:
        run.keep_evidence()
    return _conclude(run, folder, as_json=as_json)


def _conclude(run: Run, folder: Path, *, as_json: bool) -> int:
    course, history = run.course, run.history
    timings = measure(
        history, run.reports(), course.turns, course.answered_ms, course.began_ms, course.ended_ms,
        (course.quiet_ms - course.healed_ms) / 1000,
    )
    verdict = judge(history)
    for one in timings.take_overs:
        if one.late:
            said = f"{one.seconds:.1f} s from the {one.fault} of {one.part} until {one.by} led"
            verdict.violations.append(Violation(rule="take-over", text=said))
    if (slow := timings.slowest) is not None and slow.seconds > REPORT_S_MAX:
        said = f"its end was {slow.seconds:.1f} s on its way into the log, while its host and the bus were well"
        verdict.violations.append(Violation(rule="slow report", text=said, task_id=slow.task_id, host=slow.host_id))
    verdict.violations += [Violation(rule="checker", text=one) for one in course.broke]
    report = Report(run.options, verdict, timings, course, str(folder), f"./run torture {again(run.options)}")
    (folder / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    table = text(run.options, history, verdict, timings, course.began_ms)
    (folder / "table.txt").write_text(table + "\n")
    print((folder / "verdict.json").read_text() if as_json else table)
    if not verdict.violations:
        # What is left is what a person may want to read; the system's own files are large.
        shutil.rmtree(folder / "system", ignore_errors=True)
    print(f"evidence in {folder}", file=sys.stderr)
    return EXIT_VIOLATED if verdict.violations else 0


async def _until_signalled(run: Run) -> None:
    """Run; the first Ctrl-C or SIGTERM ends it in order, and so does a second one that comes meanwhile."""
    task = asyncio.ensure_future(run.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None if task.cancelling() else task.cancel())
    await task


def _read(words: list[str] | None) -> tuple[Options, Path, bool]:
    parser = argparse.ArgumentParser(prog="just torture", description="Break a running fleetlog, and check what it says.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults happen (default %(default)s)")
    parser.add_argument(
        "--faults", default=",".join(FAULTS), help="which: any of %(default)s (the default), or `none`", metavar="A,B"
    )
    parser.add_argument("--agents", type=int, default=AGENTS, help="hosts (default %(default)s)")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="nodes of the bus (default %(default)s)")
    parser.add_argument("--writers", type=int, default=WRITERS, help="who submit tasks (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run as far as real processes allow")
    parser.add_argument("--folder", type=Path, help="for the evidence: a new or an empty folder (default a new one)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON instead of a table")
    given = parser.parse_args(words)
    faults = tuple(one for one in given.faults.split(",") if one and one != "none")
    unknown = [one for one in faults if one not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {unknown[0]!r}, only {', '.join(FAULTS)}")
    if not 0 < given.minutes <= 24 * 60 or not 1 <= given.agents <= AGENTS_MAX or not 1 <= given.writers <= AGENTS_MAX:
        parser.error(f"--minutes is above 0 and up to a day, --agents and --writers are 1 to {AGENTS_MAX}")
    if given.nodes > 1 and (reason := namespaces.missing()):
        parser.error(f"--nodes {given.nodes} puts each node and each host on a machine of its own: {reason}")
    seed = random.randrange(SEED_MAX) if given.seed is None else given.seed
    options = Options(seed, given.minutes * 60, faults, given.agents, given.nodes, given.writers)
    folder = _folder(parser, given.folder, seed)
    (folder / "system").mkdir()
    return options, folder, given.json


def _folder(parser: argparse.ArgumentParser, folder: Path | None, seed: int) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix=f"fleetlog-torture-{seed}-"))
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
    if not folder.is_dir() or any(folder.iterdir()):
        parser.error(f"{folder} is not an empty folder: name a new one for the evidence")
    return folder.absolute()


if __name__ == "__main__":
    sys.exit(main())
