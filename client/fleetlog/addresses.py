"""Under what names and addresses this machine is reached, and whether it is a node of a cluster."""

from __future__ import annotations

import argparse
import socket

import psutil

from fleetlog_runtime.pure.cluster import Cluster, parse_cluster
from fleetlog_runtime.pure.settings import Settings

ANY = ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def own_addresses() -> list[str]:
    """Return the addresses of this machine's interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = [one.address for all_of in psutil.net_if_addrs().values() for one in all_of if one.family in families]
    return [address for address in found if "%" not in address]


def own_names(listen: str) -> tuple[str, ...]:
    """Return under what names other machines may reach this one: the certificate must carry them."""
    return tuple(dict.fromkeys([socket.gethostname(), *(own_addresses() if listen in ANY else ())]))


def cluster_flags(options: argparse.Namespace) -> list[str]:
    """Return the settings that `--cluster` and `--node` stand for."""
    flags = [f"cluster.members={','.join(options.cluster)}"] if options.cluster else []
    return flags + ([f"cluster.node={options.node}"] if options.node else [])


def cluster_of(settings: Settings) -> Cluster | None:
    """Return the cluster that this machine is a node of, or None. Raises SettingsError."""
    return parse_cluster(settings.cluster.members, settings.cluster.node, own_addresses())
