"""Read the settings of one folder: flags, environment, and the `settings.toml` in it."""

from __future__ import annotations

import os
from pathlib import Path

from fleetlog_runtime.pure.settings import Settings, SettingsError, resolve

FILE_NAME = "settings.toml"


def load_settings(folder: Path, flags: list[str], file: Path | None = None) -> Settings:
    """Return the settings of *flags* (`group.name=value`), environment and *file* (by default the one in *folder*).

    Raises:
        SettingsError: one of them is wrong, or the named file is not there.
    """
    path = file if file is not None else folder / FILE_NAME
    try:
        text = path.read_text()
    except FileNotFoundError:
        if file is not None:
            raise SettingsError(f"there is no settings file {file}") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    return resolve(flags=flags, environment=os.environ, file_text=text, file_name=str(path))
