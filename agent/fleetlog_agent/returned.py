"""What a command returns: JSON that its process leaves in the file that `FLEETLOG_RETURN` names.

Nobody has to: most processes never look at it, so for them no file is made. One that runs as another user cannot enter
the agent's folder, and gets the open file instead. The value goes into the log, so secrets are hidden in it as in output.
"""

from __future__ import annotations

import os
import stat

import msgspec

from fleetlog_agent.masking import Masker
from fleetlog_schemas.limits import RETURN_VALUE_BYTES_MAX

VARIABLE = "FLEETLOG_RETURN"
SUFFIX = "return"


def read(path: str, masker: Masker | None) -> tuple[str | None, str]:
    """Return the value that stands in a file, and what is wrong with it; None: there is none."""
    try:
        # Whatever lies there is the process's doing: no link is followed, and no pipe is waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"what it returned cannot be read: {error.strerror}"
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None, "what it returned is no file"
        with os.fdopen(os.dup(descriptor), "rb") as file:
            body = file.read(RETURN_VALUE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(body) > RETURN_VALUE_BYTES_MAX:
        return None, f"it returned more than {RETURN_VALUE_BYTES_MAX} bytes, which are not kept"
    if not body.strip():
        return None, ""
    if masker is None:
        return None, "what it returned is not kept, for the secrets to hide in it are not known any more"
    try:
        masked = masker.mask(body, final=True).strip()
        msgspec.json.decode(masked)
        return masked.decode(), ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return None, f"what it returned is no JSON, and is not kept: {error}"[:300]
