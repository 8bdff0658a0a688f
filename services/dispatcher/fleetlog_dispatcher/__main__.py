"""`python -m fleetlog_dispatcher --data DIR`."""

from fleetlog_dispatcher.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("dispatcher", run)
