"""Writers: each submits tasks through one gateway or another, at its own pace, and notes what it asked and was told.

A writer without an answer either asks for the same thing again, as a careful client does, or leaves it open: then
only the log can tell. What is asked for follows from the seed; what is answered does not. Each request has a
connection of its own, so that nothing is sent twice unnoticed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import msgspec

from fleetlog.client import Client, new_task_id
from fleetlog.exits import CliError
from fleetlog.http import Gateway, GatewayError
from fleetlog_checker.history import Answer, Said, Submission
from fleetlog_checker.system import System
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Retry, Script, Shell, TaskSpec

PAUSE_S = (0.2, 1.6)
"""Between two submissions of one writer."""
ASK_AGAIN_MAX = 4
ASK_AGAIN_S = 0.7
HOSTS_MAX = 8
"""Hosts of one task: many small tasks meet more faults than few large ones."""
WAIT_OFFLINE_MS = 120_000
"""Longer than any fault: such a command runs in the end."""
EXIT_CODE = 3
OUTPUT = "here"
"""What every command prints: the end of an attempt carries it."""
_NOBODY_LISTENS = "Connection refused"
_SURELY_NOT_STORED = ("bus-unavailable", "stopping", "log-full")


class Wish(msgspec.Struct, frozen=True):
    """What a task is to do, apart from on which hosts."""

    between: str
    fields: dict[str, object] = {}
    last: str = ""
    """What its shell does after the last line."""
    exit_code: int = 0
    cancel_after_s: float = 0.0
    count: int = 1
    as_script: bool = False
    """Its payload is a script that hosts fetch, rather than an argv that comes with the push."""


def wish(chance: random.Random) -> Wish:
    """Return what to ask for next."""
    nap = f"sleep {chance.choice(('0', '0.1', '0.5', '1', '2'))}"
    patient: dict[str, object] = {"wait_offline_ms": WAIT_OFFLINE_MS}
    kinds: list[tuple[int, Callable[[], Wish]]] = [
        (50, lambda: Wish(nap, patient)),
        (10, lambda: Wish(nap, {"wait_offline_ms": 0})),
        (10, lambda: Wish(
            nap, {**patient, "retry": Retry(attempts_max=3, on=(Outcome.FAILURE,), backoff_ms=300)},
            f'[ "$FLEETLOG_ATTEMPT" -ge 2 ] || exit {EXIT_CODE}', EXIT_CODE,
        )),
        (5, lambda: Wish(nap, patient, f"exit {EXIT_CODE}", EXIT_CODE)),
        (5, lambda: Wish("sleep 6", {**patient, "timeout_ms": 1_200})),
        (8, lambda: Wish("sleep 3", patient, cancel_after_s=chance.uniform(0.0, 2.0))),
        (6, lambda: Wish("sleep 2", {**patient, "retry": Retry(attempts_max=2, on=(Outcome.LOST,), backoff_ms=200)})),
        (6, lambda: Wish(nap, patient, count=3)),
        (10, lambda: Wish(nap, patient, as_script=True)),
    ]
    return chance.choices([make for _, make in kinds], [share for share, _ in kinds])[0]()


class Writer(threading.Thread):
    """One writer."""

    def __init__(self, system: System, seed: int, number: int) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self._system = system
        self._chance = random.Random(f"writer {seed} {number}")
        self._ending = threading.Event()
        self._cancels: list[tuple[float, Submission]] = []
        self.submissions: list[Submission] = []
        self.broke = ""
        """What ended it before its time."""

    def end(self) -> None:
        """Submit nothing more."""
        self._ending.set()

    def run(self) -> None:
        """Submit until told to end."""
        try:
            while not self._ending.wait(self._chance.uniform(*PAUSE_S)):
                self._submit(wish(self._chance))
                self._cancel_due()
            self._cancel_due(all_of_them=True)
        except Exception as error:
            self.broke = f"{self.name}: {error!r}"

    def _submit(self, wanted: Wish) -> None:
        names = [host.name for host in self._system.hosts]
        chosen = self._chance.sample(names, self._chance.randint(1, min(HOSTS_MAX, len(names))))
        payload = self._payload(wanted)
        if payload is None:
            return
        spec = TaskSpec(payload=payload, target=",".join(sorted(chosen)), **wanted.fields)  # type: ignore[arg-type]
        one = Submission(tuple(new_task_id() for _ in range(wanted.count)), spec, wanted.exit_code, OUTPUT)
        self.submissions.append(one)
        persists = self._chance.random() < 0.6
        for _ in range(ASK_AGAIN_MAX if persists else 1):
            one.answers.append(self._ask(one))
            if one.answers[-1].said in (Said.ACKNOWLEDGED, Said.REFUSED) or self._ending.wait(ASK_AGAIN_S):
                break
        if wanted.cancel_after_s:
            self._cancels.append((time.monotonic() + wanted.cancel_after_s, one))

    def _payload(self, wanted: Wish) -> Shell | Script | None:
        """Return what is to run; None when its content could not be stored, so that there is nothing to ask for."""
        shell = self._system.judge.command(f"printf '{OUTPUT}'; {wanted.between}", wanted.last)
        if not wanted.as_script:
            return shell
        gateway = self._gateway()
        try:
            return Script(content=Client.over(gateway).put_blob(shell.argv[-1].encode(), "checker.sh"))
        except CliError:
            return None
        finally:
            gateway.close()

    def _gateway(self) -> Gateway:
        return self._system.gateways[self._chance.choice(list(self._system.gateways))]()

    def _ask(self, one: Submission) -> Answer:
        name = self._chance.choice(list(self._system.gateways))
        asked_ms = now_ms()
        said, text = Said.UNKNOWN, ""
        try:
            gateway = self._system.gateways[name]()
            try:
                submit(gateway, one)
            finally:
                gateway.close()
            said = Said.ACKNOWLEDGED
        except GatewayError as error:
            text = f"{error.status} {error.problem_code}"
            if error.status == 503:
                said = Said.NOT_SENT if error.problem_code in _SURELY_NOT_STORED else Said.UNKNOWN
            elif error.status < 500 or error.status == 507:
                said, text = Said.REFUSED, f"{text}: {error.message}"
        except CliError as error:
            text = error.message
            said = Said.NOT_SENT if _NOBODY_LISTENS in text else Said.UNKNOWN
        return Answer(said, text, name, asked_ms, now_ms())

    def _cancel_due(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        due = [one for at, one in self._cancels if at <= now or all_of_them]
        self._cancels = [(at, one) for at, one in self._cancels if at > now and not all_of_them]
        for one in due:
            one.cancel_asked = True
            gateway = self._gateway()
            try:
                gateway.post(f"/tasks/{one.task_ids[0]}/cancel", {"reason": "the checker changed its mind"})
            except CliError:
                continue  # then it runs to its end, which is as good
            finally:
                gateway.close()


def submit(gateway: Gateway, one: Submission) -> None:
    """Send one submission: a task alone, or several together."""
    spec = msgspec.to_builtins(one.spec)
    if len(one.task_ids) == 1:
        gateway.post("/tasks", spec, Idempotency_Key=one.task_ids[0])
    else:
        gateway.post("/tasks/batch", {"tasks": [{"spec": spec, "task_id": task_id} for task_id in one.task_ids]})


def now_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000


