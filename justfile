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
    mypy schemas runtime services/scheduler services/dispatcher services/result-recorder services/reporter services/keeper services/gateway agent client bench
    lint-imports
    pytest tests/tidy

# simulate the whole fleet: `just simulate SEED` replays one exactly, `just simulate --count N` tries new ones
simulate *arguments:
    PYTHONPATH=tests/support python -m fleetlog_simulation "$@"

# break a real system for a time, by a seed, and check every attempt by what its command wrote: `just torture --minutes 5 --seed 7`
[no-exit-message]
torture *arguments:
    @PYTHONPATH=tests/support exec python -m fleetlog_checker "$@"

# measure fleetlog and the machine in one run; `just bench --json FILE` keeps the figures
bench *arguments:
    python -m bench "$@"

# measure calls of a function beside Huey, taskiq and Celery, in one run; they are installed into .venv-peers
bench-peers *arguments:
    python -m bench.peers "$@"

# run the whole system under mixed load and see what grows: `just soak --minutes 20`
soak *arguments:
    python -m bench.soak "$@"

# write every generated page again
docs:
    python docs/generate.py

# write the archive of a release, for the tests of later ones: `just release VERSION COMMIT`
release version commit:
    python tests/fixtures/releases/make.py "$1" "$2"

# resolve constraints.txt anew (names, versions, hashes)
lock:
    python .ci/lock.py

# make .venv and nothing else
setup:
    @python --version
