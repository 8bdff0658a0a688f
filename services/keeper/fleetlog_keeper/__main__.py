"""`python -m fleetlog_keeper --data DIR`."""

from fleetlog_keeper.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("keeper", run)
