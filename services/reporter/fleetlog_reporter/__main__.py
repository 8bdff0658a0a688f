"""`python -m fleetlog_reporter --data DIR`."""

from fleetlog_reporter.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("reporter", run)
