"""What the workers of the section `functions` run: nothing."""

from fleetlog import task


@task("bench.noop")
def noop() -> None:
    """Return at once."""
