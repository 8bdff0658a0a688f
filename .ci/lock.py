"""Write constraints.txt: the exact names, versions and archive hashes of everything the project installs.

pip itself resolves what pyproject.toml asks for, once; then its installation report is asked for the archives
that each supported Python and machine would get, so that one file serves them all. Nothing is installed. The file
holds no address: pip finds archives by name wherever it is configured to look.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["rust-just", "setuptools>=77"]
"""What `run` needs beside the project: its recipes, and the builder of packages that have no wheel."""
INSTALLED_APART = ("peers",)
"""Extras that are for an environment of their own, which `just bench-peers` makes."""
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
MACHINES = ["x86_64", "aarch64"]
LIBC = ["linux", "manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 26, 27, 28, 31, 34))]
HEADER = """\
# Everything that a checkout of fleetlog installs: names, versions, hashes of archives for Python {pythons}
# on Linux ({machines}). Written by `just lock`; not edited by hand.
"""


def report(*arguments: str) -> list[dict[str, Any]]:
    """Return what pip would install. Raises CalledProcessError with pip's words on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        target = ["--target", f"{folder}/target"] if "--platform" in arguments else []
        command += ["--report", str(path), *target, *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return list(json.loads(path.read_text())["install"])


def name_of(item: dict[str, Any]) -> str:
    """Return the normalised name of an item of a report."""
    return re.sub(r"[-_.]+", "-", str(item["metadata"]["name"])).lower()


def hash_of(item: dict[str, Any]) -> str:
    """Return the SHA-256 of the archive of an item of a report."""
    return str(item["download_info"]["archive_info"]["hashes"]["sha256"])


def resolve() -> tuple[dict[str, str], dict[str, set[str]], set[str]]:
    """Return versions and hashes by name as this Python gets them, and the names that have no wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"] + TOOLS
    extras = project["project"]["optional-dependencies"]
    for extra in (extras[name] for name in extras if name not in INSTALLED_APART):
        wanted += extra
    items = report(*wanted)
    versions = {name_of(item): str(item["metadata"]["version"]) for item in items}
    hashes = {name_of(item): {hash_of(item)} for item in items}
    sources = {name_of(item) for item in items if not item["download_info"]["url"].endswith(".whl")}
    return versions, hashes, sources


def wheels(pins: list[str], python: str, machine: str) -> list[dict[str, Any]]:
    """Return the wheels of *pins* for one Python and machine; a package without one is named and left out."""
    pins = list(pins)
    platforms = [part for libc in LIBC for part in ("--platform", f"{libc}_{machine}")]
    while True:
        try:
            return report("--no-deps", "--only-binary", ":all:", "--implementation", "cp",
                          "--python-version", python, *platforms, *pins)
        except subprocess.CalledProcessError as error:
            missing = re.search(r"No matching distribution found for (\S+)", str(error.stderr))
            if missing is None or missing[1] not in pins:
                sys.exit(f"pip could not answer:\n{error.stderr}")
            print(f"no wheel of {missing[1]} for Python {python} on {machine}")
            pins.remove(missing[1])


def main() -> None:
    """Resolve, ask for every archive, write the file."""
    versions, hashes, sources = resolve()
    pins = [f"{name}=={version}" for name, version in versions.items() if name not in sources]
    for python in PYTHONS:
        for machine in MACHINES:
            for item in wheels(pins, python, machine):
                hashes[name_of(item)].add(hash_of(item))
    lines = [HEADER.format(pythons=", ".join(PYTHONS), machines=", ".join(MACHINES))]
    for name in sorted(versions):
        parts = [f"{name}=={versions[name]}", *(f"    --hash=sha256:{value}" for value in sorted(hashes[name]))]
        lines.append(" \\\n".join(parts) + "\n")
    (ROOT / "constraints.txt").write_text("".join(lines))
    print(f"constraints.txt: {len(versions)} packages, {sum(map(len, hashes.values()))} hashes")


if __name__ == "__main__":
    main()
