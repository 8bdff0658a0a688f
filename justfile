# Recipes of fleetlog. `./run RECIPE` makes .venv first; inside it, `just RECIPE` is the same.

set positional-arguments

# list the recipes
default:
    @just --list --unsorted

# the system on this machine: eight steps, each printing the command it types
demo *arguments:
    python -m fleetlog.demo "$@"

# start the whole system and keep it running; Ctrl-C stops it
[no-exit-message]
up *arguments:
    @exec fleetlog up "$@"

# every test: unit, properties, contract, simulation, integration, tidy
test *arguments:
    pytest "$@"

# what must hold before a commit: style, types, import rules, tidiness
check:
    ruff check .
    mypy schemas runtime services/dispatcher services/result-recorder services/reporter services/keeper services/gateway agent client bench
    lint-imports
    pytest tests/tidy

# simulate the whole fleet: `just simulate SEED` replays one exactly, `just simulate --count N` tries new ones
simulate *arguments:
    PYTHONPATH=tests/support python -m fleetlog_simulation "$@"

# measure fleetlog and the machine in one run; `just bench --json FILE` keeps the figures
bench *arguments:
    python -m bench "$@"

# write every generated page again
docs:
    python docs/generate.py

# resolve constraints.txt anew (names, versions, hashes)
lock:
    python .ci/lock.py

# make .venv and nothing else
setup:
    @python --version
