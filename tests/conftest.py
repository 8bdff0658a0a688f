"""Settings of every suite. Hypothesis has no deadline: on a busy machine a slow example is no failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fleetlog", deadline=None, print_blob=True)
settings.load_profile("fleetlog")
