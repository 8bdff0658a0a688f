"""doctor: look at everything that can be wrong, and say for each thing what to do.

Checks only look. Those that need files of the server are left out where there are none (another machine).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.render.text import count_of, size
from fleetlog.verbs.archive import standing
from fleetlog.verbs.doctor_cluster import cluster
from fleetlog.verbs.finding import BAD, NOTE, OK, Finding
from fleetlog.verbs.hosts import RESTORED
from fleetlog_schemas.limits import DISK_HEADROOM_BYTES
from fleetlog_schemas.version import VERSION

FILL_NOTE, FILL_BAD = 0.70, 0.85
"""Shares of a stream's reserved bytes: at 85 % of EVENTS new tasks are refused."""
DISK_FREE_BAD = 0.05
DISK_FREE_NOTE = 0.15
SKEW_S_NOTE, SKEW_S_BAD = 3.0, 240.0
"""The Date header has a resolution of a second; a task id more than five minutes ahead is refused."""
LAG_NOTE = 1_000
"""Events that a reader may be behind before it is worth a word."""
REPORTS_WAITING_NOTE = 1_000
MONITOR_TIMEOUT_S = 5.0
ALERTS_SHOWN_MAX = 5
HOST_KINDS = ("host-refused", "reports-refused")


def doctor(console: Console) -> int:
    """Check the system and say what to do."""
    findings = list(_gateway(console))
    reachable = findings[0].state != BAD
    if reachable:
        for check in (_versions, _clock, _readers, _archive, _alerts, _hosts):
            findings += _guarded(console, check)
    for check in (_modes, _disk, _bus, cluster):
        findings += _guarded(console, check)
    findings.append(
        Finding("secrets", OK, "argv stands in the log for ever", "give secrets by --secret or --stdin, never in argv")
    )
    _print(console, findings)
    if not reachable:
        return Exit.UNREACHABLE
    return Exit.INTERNAL if any(finding.state == BAD for finding in findings) else Exit.OK


def _guarded(console: Console, check: Callable[[Console], Iterator[Finding]]) -> list[Finding]:
    """Run one check; that it cannot be made is a finding too."""
    try:
        return list(check(console))
    except CliError as error:
        return [Finding(check.__name__.strip("_"), BAD, error.message, error.hint)]


def _print(console: Console, findings: list[Finding]) -> None:
    if console.json:
        console.put_json([dataclasses.asdict(finding) for finding in findings])
        return
    style = console.out_style
    marks = {OK: style.glyph("success"), NOTE: style.paint("!", "yellow"), BAD: style.glyph("failure")}
    for finding in findings:
        console.put(f"{marks[finding.state]} {finding.check:<14} {style.line(finding.found)}")
        if finding.todo:
            console.put(f"    → {style.line(finding.todo)}" if style.unicode else f"    {style.line(finding.todo)}")


def _gateway(console: Console) -> Iterator[Finding]:
    try:
        began = time.monotonic()
        status, _ = console.gateway.probe("/livez")
        took_ms = (time.monotonic() - began) * 1000
    except CliError as error:
        yield Finding("gateway", BAD, error.message, error.hint)
        return
    if status != 200:
        yield Finding("gateway", BAD, f"{console.gateway.url} answers {status}", "see the diagnostics of the gateway")
        return
    yield Finding("gateway", OK, f"{console.gateway.url} answers in {took_ms:.0f} ms")
    status, ready = console.gateway.probe("/readyz")
    checks = ready.get("checks", ready) if isinstance(ready, dict) else {}
    wrong = {name: text for name, text in checks.items() if isinstance(text, str) and text not in ("ok", "ready")}
    for name, text in wrong.items():
        yield Finding("ready", BAD, f"{name}: {text}", "wait a moment; if it stays, see diagnostics/ in the data folder")
    if status == 200 and not wrong:
        yield Finding("ready", OK, "bus, feed and reporter answer")


def _versions(console: Console) -> Iterator[Finding]:
    answer = console.gateway.get("/version")
    theirs, mine = str(answer.get("version", "unknown")), VERSION
    if theirs == mine:
        yield Finding("version", OK, mine)
    else:
        yield Finding("version", NOTE, f"client {mine}, gateway {theirs}", "install the same version on both")


def _clock(console: Console) -> Iterator[Finding]:
    date = console.gateway.date
    if not date:
        return
    skew_s = abs(parsedate_to_datetime(date).timestamp() - time.time())
    todo = "run a time service (chrony, systemd-timesyncd) on both machines"
    if skew_s > SKEW_S_BAD:
        yield Finding("clock", BAD, f"{skew_s:.0f} s apart from the gateway's; tasks will be refused", todo)
    elif skew_s > SKEW_S_NOTE:
        yield Finding("clock", NOTE, f"{skew_s:.0f} s apart from the gateway's", todo)
    else:
        yield Finding("clock", OK, "in step with the gateway's")


def _readers(console: Console) -> Iterator[Finding]:
    """Ask the services that fold the log how far they are."""
    gateway = console.gateway
    log_seq = int(gateway.get("/log", limit=1)["seq"])
    everything = {"payload": {"kind": "shell", "argv": ["true"]}, "target": "all"}
    asked: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
        ("dispatcher", lambda: gateway.post("/plan", everything)),
        ("reporter", lambda: gateway.get("/tasks", limit=1)),
    )
    for name, ask in asked:
        try:
            behind = log_seq - int(ask()["seq"])
        except CliError as error:
            yield Finding(name, BAD, error.message, f"see diagnostics/{name} in the data folder")
            continue
        if behind > LAG_NOTE:
            yield Finding(name, NOTE, f"{behind} events behind the log", "wait; if it grows, see its diagnostics")
        else:
            yield Finding(name, OK, f"has read the log through {log_seq - max(behind, 0)} of {log_seq}")


def _archive(console: Console) -> Iterator[Finding]:
    page = console.gateway.get("/archive", from_seq=2**53, limit=1)["data"]
    keeper = page["keeper"]
    found = "; ".join(standing(page))
    if keeper is None:
        yield Finding("keeper", BAD, found, "the log fills up: is the keeper running? see diagnostics/keeper in the data folder")
    elif keeper["error"]:
        yield Finding("keeper", BAD, found, "see to the archive's disk, then `fleetlog archive verify`")
    elif keeper["held_back"]:
        yield Finding("keeper", NOTE, found, "end the task, or start the service, and the keeper goes on by itself")
    else:
        yield Finding("keeper", OK, found)


def _alerts(console: Console) -> Iterator[Finding]:
    found: list[dict[str, Any]] = list(console.gateway.get("/alerts")["data"])
    found = [one for one in found if one["kind"] not in HOST_KINDS]  # the lines of hosts say these, with what to do
    for one in found[:ALERTS_SHOWN_MAX]:
        todo = f"fleetlog alert show {one['alert_id'][-8:]}"
        yield Finding("alert", NOTE, one["message"], todo + ("" if one["state"] == "acknowledged" else ", fleetlog alert ack"))
    if len(found) > ALERTS_SHOWN_MAX:
        yield Finding("alert", NOTE, f"{len(found) - ALERTS_SHOWN_MAX} more alerts are open", "fleetlog alert ls")
    if not found:
        yield Finding("alerts", OK, "none is open")


def _hosts(console: Console) -> Iterator[Finding]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = console.gateway.get("/hosts", limit=500, cursor=cursor)["data"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    living = [host for host in items if host["presence"] != "revoked"]
    online = sum(1 for host in living if host["presence"] == "online")
    away = sum(1 for host in living if host["presence"] == "offline")
    yield Finding(
        "hosts", OK if living else NOTE, f"{count_of(len(living), 'host')}, {online} online, {away} offline",
        "" if living else "`fleetlog host add NAME` prints the line that joins one",
    )
    restored = [host["name"] for host in living if host["presence"] == "refused" and host["refused_code"] == RESTORED]
    if restored:
        yield Finding(
            "hosts", BAD, f"{count_of(len(restored), 'host')} refused because the log was restored from a backup",
            "look at them, then: fleetlog host accept --restored --reason '...'",
        )
    for host in living:
        if host["name"] in restored:
            continue
        if host["presence"] == "refused":
            yield Finding(
                "host", BAD, f"{host['name']} is refused: {host['refused_reason']}",
                f"was it cloned or restored? look, then: fleetlog host accept {host['name']} --reason '...'",
            )


def _modes(console: Console) -> Iterator[Finding]:
    """Secrets are for their owner only, and so is what changes how the services work."""
    folder = console.place.folder
    if not folder.is_dir():
        return
    private = [folder, *(folder / name for name in ("keys", "creds", "gateway"))]
    files = [path for name in ("keys", "creds") for path in _listed(folder / name)] + [folder / "gateway" / "token"]
    files += [path for path in _listed(folder / "tls") if path.suffix == ".key"]
    open_ones = [path for path in [*private, *files] if _mode(path) & 0o077]
    for path in open_ones:
        yield Finding("modes", BAD, f"others may read {path}", f"chmod go= {path}")
    settings = folder / "settings.toml"
    if _mode(settings) & 0o022:
        yield Finding("modes", BAD, f"others may change {settings}", f"chmod go-w {settings}")
    elif not open_ones:
        yield Finding("modes", OK, f"keys, credentials and token in {folder} are for their owner only")


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _disk(console: Console) -> Iterator[Finding]:
    """Look at the disk of the folder, and at the bus's and the projection's where they have their own."""
    seen: set[int] = set()
    for folder in (console.place.folder, console.place.folder / "nats", console.place.folder / "reporter"):
        if not folder.is_dir() or folder.stat().st_dev in seen:
            continue
        seen.add(folder.stat().st_dev)
        usage = shutil.disk_usage(folder)
        free = usage.free / usage.total if usage.total else 1.0
        full = free < DISK_FREE_BAD or usage.free < DISK_HEADROOM_BYTES
        state = BAD if full else NOTE if free < DISK_FREE_NOTE else OK
        todo = "free space, or move the data folder to a larger disk" if state != OK else ""
        if usage.free < DISK_HEADROOM_BYTES:
            todo += "; until then no new tasks are taken"
        yield Finding("disk", state, f"{size(usage.free)} free of {size(usage.total)} ({free:.0%}) for {folder}", todo)


def _bus(console: Console) -> Iterator[Finding]:
    """Ask the bus's own monitoring, which listens on loopback only."""
    address = console.place.folder / "nats" / "monitor_url"
    if not address.is_file():
        return
    url = address.read_text().strip()
    try:
        server = _monitored(f"{url}/varz")
        storage = _monitored(f"{url}/jsz?accounts=true&streams=true&config=true")
    except (OSError, ValueError, urllib.error.URLError) as error:
        yield Finding("bus", BAD, f"nats-server at {url} does not answer: {error}", "see nats/server.log in the data folder")
        return
    config = server.get("jetstream", {}).get("config", {})
    if config.get("sync_always"):
        yield Finding("bus", OK, f"nats-server {server.get('version', '?')}, on disk before it acknowledges")
    else:
        yield Finding(
            "bus", BAD, f"nats-server {server.get('version', '?')} acknowledges before the disk has it",
            "set `sync_interval: always` in its jetstream configuration",
        )
    for account in storage.get("account_details") or ():
        for stream in account.get("stream_detail") or ():
            yield from _stream(stream)


def _stream(stream: dict[str, Any]) -> Iterator[Finding]:
    name, used = stream["name"], int(stream["state"]["bytes"])
    most = int(stream.get("config", {}).get("max_bytes", -1))
    if most <= 0:
        yield Finding("stream", NOTE, f"{name} has no limit", "it can fill the disk: give it max_bytes")
        return
    share = used / most
    state = BAD if share >= FILL_BAD else NOTE if share >= FILL_NOTE else OK
    todo = "see the line `keeper` for what holds pruning back, or give it more room" if state != OK else ""
    yield Finding("stream", state, f"{name:<9} {size(used)} of {size(most)} ({share:.1%})", todo)
    waiting = int(stream["state"].get("messages", 0))
    if name == "REPORTS" and waiting > REPORTS_WAITING_NOTE:
        yield Finding("reports", NOTE, f"{waiting} reports wait for a recorder", "is the result-recorder running?")


def _monitored(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=MONITOR_TIMEOUT_S) as answer:  # noqa: S310  # our own file says http://127.0.0.1
        found: dict[str, Any] = json.load(answer)
    return found
