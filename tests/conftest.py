"""Settings of every suite. Hypothesis has no deadline: on a busy machine a slow example is no failure.

In continuous integration its examples follow from the code alone, so that a red run says something about the change;
everywhere else they are new each time, and what they find becomes a test.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fleetlog", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fleetlog")
