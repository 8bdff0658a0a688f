"""`python -m fleetlog_scheduler --data DIR`."""

from fleetlog_runtime.shell.service import service_main
from fleetlog_scheduler.main import run

if __name__ == "__main__":
    service_main("scheduler", run)
