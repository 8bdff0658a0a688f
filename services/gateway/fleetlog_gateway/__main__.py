"""`python -m fleetlog_gateway --data DIR`."""

from fleetlog_gateway.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("gateway", run)
