"""The routes, by topic. Importing this package declares them all."""

from __future__ import annotations

from fleetlog_gateway.routes import hosts, live, reads, system, tasks

__all__ = ["hosts", "live", "reads", "system", "tasks"]
