"""The configuration of the embedded nats-server, as text. No file is touched here."""

from __future__ import annotations

import json
from pathlib import Path

from fleetlog_runtime.pure.cluster import Cluster
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import limits

CONSUMERS_PER_STREAM_MAX = 5_000
"""Readers of one stream at once; the server's own default of 1,000 counts every short-lived one too."""
CONNECTIONS_MAX = 100_000
"""More than the hosts of one node; the server's own default is 65,536."""
STORE_MEMORY_BYTES_MAX = 256 * 1024**2
"""For consumers kept in memory; streams are in files."""
AUTHENTICATION_SECONDS = 15
"""A whole fleet that comes back at once must not time out while keys are checked; the server's default is 2 s."""
ROUTE_SECONDS = 5
"""To prove oneself to another node; the server's own default is 1 s."""
ROUTE_PING_SECONDS = 3
"""A node that went silent counts as gone after about three of these; the server's own default is half a minute."""
LOG_BYTES_MAX = 10 * 1024**2
LOG_FILES_MAX = 3


def server_config(
    home: Home, *, listen: str, port: int, monitor_port: int, file_bytes_max: int, tls: bool,
    cluster: Cluster | None = None, flush_late: bool = False,
) -> str:
    """Return the text of `server.conf`.

    Operator mode, storage that acknowledges only what is on disk (unless *flush_late*), monitoring on loopback only.
    """
    nats = home.path / "nats"
    sys_account = nats_auth.public_key(home.seed("account-sys"))
    core_account = nats_auth.public_key(home.seed("account-core"))
    agents_account = nats_auth.public_key(home.seed("account-agents"))
    operator = home.seed("operator")
    roles = {user: home.seed(f"{user}-scope") for user in nats_auth.SERVICE_USERS}
    core = nats_auth.core_account_jwt(operator, home.seed("account-core"), agents_account, roles)
    return f"""\
# Written by fleetlog at every start; changes are lost.
server_name: {cluster.own.name if cluster else "fleetlog"}
listen: {_quoted(f"{listen}:{port}")}
http: "127.0.0.1:{monitor_port}"
max_payload: {limits.BUS_MESSAGE_BYTES_MAX}
max_connections: {CONNECTIONS_MAX}
log_file: {_quoted(nats / "server.log")}
logfile_size_limit: {LOG_BYTES_MAX}
logfile_max_num: {LOG_FILES_MAX}
authorization {{ timeout: {AUTHENTICATION_SECONDS} }}
jetstream {{
  store_dir: {_quoted(nats / "jetstream")}
  max_memory_store: {STORE_MEMORY_BYTES_MAX}
  max_file_store: {file_bytes_max}
  sync_interval: {'"2m"' if flush_late else "always"}
  limits {{ default_max_consumers: {CONSUMERS_PER_STREAM_MAX} }}
}}
{_tls(home) if tls else ""}
{_cluster(home, cluster) if cluster else ""}
operator: {nats_auth.operator_jwt(operator, sys_account)}
system_account: {sys_account}
resolver {{ type: full, dir: {_quoted(nats / "jwt")}, allow_delete: false, interval: "2m", limit: 1000 }}
resolver_preload {{
  {sys_account}: {nats_auth.system_account_jwt(operator, home.seed("account-sys"))}
  {core_account}: {core}
  {agents_account}: {(nats / "agents.jwt").read_text().strip()}
}}
"""


def _tls(home: Home) -> str:
    folder = home.path / "tls"
    return f"tls {{ cert_file: {_quoted(folder / 'server.pem')}, key_file: {_quoted(folder / 'server.key')}, timeout: 5 }}"


def _cluster(home: Home, cluster: Cluster) -> str:
    password = home.secret("route").hex()
    routes = ", ".join(_quoted(f"nats-route://node:{password}@{node.route}") for node in cluster.others)
    folder = home.path / "tls"
    files = {"cert_file": folder / "server.pem", "key_file": folder / "server.key", "ca_file": folder / "ca.pem"}
    tls = "".join(f"{name}: {_quoted(path)}, " for name, path in files.items())
    return f"""\
client_advertise: {_quoted(cluster.own.bus)}
cluster {{
  name: fleetlog
  listen: {_quoted(cluster.own.route)}
  authorization {{ user: node, password: {_quoted(password)}, timeout: {ROUTE_SECONDS} }}
  routes: [{routes}]
  ping_interval: "{ROUTE_PING_SECONDS}s"
  ping_max: 2
  {f"tls {{ {tls}verify: true, timeout: {ROUTE_SECONDS} }}" if cluster.tls else ""}
}}"""


def _quoted(text: str | Path) -> str:
    # The server's configuration format takes JSON strings.
    return json.dumps(str(text))
