"""`python -m fleetlog_result_recorder --data DIR`."""

from fleetlog_result_recorder.main import run
from fleetlog_runtime.shell.service import service_main

if __name__ == "__main__":
    service_main("result-recorder", run)
