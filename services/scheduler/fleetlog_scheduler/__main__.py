"""`python -m fleetlog_scheduler --data DIR`."""

from fleetlog_scheduler.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("scheduler", run)
