"""What the host is made of, and how busy it is, by psutil and the standard library."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

import psutil

from fleetlog_schemas.reports import Load

_MIB = 1024 * 1024


def boot_id() -> str:
    """Return the name that the kernel gave this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"since-{int(psutil.boot_time())}"


def facts(data: Path) -> dict[str, str | int | float | bool]:
    """Return what rarely changes; sizes in MiB, so that they do not change with every page."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    disk = psutil.disk_usage(str(data))
    uname = os.uname()
    return {
        "hostname": socket.gethostname(),
        "os.name": release.get("NAME", uname.sysname),
        "os.version": release.get("VERSION_ID", ""),
        "kernel": uname.release,
        "arch": uname.machine,
        "cpu.count": psutil.cpu_count() or 1,
        "memory.mib": psutil.virtual_memory().total // _MIB,
        "swap.mib": psutil.swap_memory().total // _MIB,
        "disk.mib": disk.total // _MIB,
        "address": _address(),
        "python": platform.python_version(),
        "agent.user": str(os.getuid()),
    }


def _address() -> str:
    """Return the address by which this host reaches others, or nothing."""
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        if name == "lo":
            continue
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    return ""


def load(data: Path) -> Load:
    """Return how busy the host is; the processor since the last call."""
    return Load(
        cpu_ratio=psutil.cpu_percent(interval=None) / 100,
        memory_ratio=psutil.virtual_memory().percent / 100,
        disk_ratio=psutil.disk_usage(str(data)).percent / 100,
        load_1m=os.getloadavg()[0],
    )
