"""Write a table as TOML, one canonical text for each: values first, then tables, small ones on a line of their own. Pure."""

from __future__ import annotations

import re
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_lines(table: dict[str, Any], path: str) -> list[str]:
    """Return the lines of a table: values first, then the tables in it."""
    inline = {key for key, value in table.items() if isinstance(value, dict) and (key in ("for_each", "kwargs") or path.endswith(".given"))}
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in table.items()
        if key in inline or (not isinstance(value, dict) and _says(key, value, path))
    ]
    for key, value in table.items():
        if isinstance(value, dict) and key not in inline and (value or path == "parameters"):
            inner = f"{path}.{_key(key)}" if path else _key(key)
            below = toml_lines(value, inner)
            if all(isinstance(one, dict) for one in value.values()) and value and not inner.endswith(".given"):
                lines += below  # nothing stands between: no header of its own
            else:
                lines += ["", f"[{inner}]", *below]
    return lines


def _says(key: str, value: Any, path: str) -> bool:
    """Tell whether a line is needed: what is empty at the top says nothing."""
    return bool(path) or value not in ("", 0, None) or key in ("max_retries", "script", "stdin", "anywhere")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _basic(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _long(value) if "\n" in value else _basic(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items())} }}"
    return repr(value)


def _escape(text: str) -> str:
    return "".join(
        f"\\u{ord(mark):04x}" if (mark < " " and mark not in "\t\n") or mark == "\x7f" else mark for mark in text
    )


def _basic(text: str) -> str:
    marked = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_escape(marked)}"'


def _long(text: str) -> str:
    """Return a text of several lines; a carriage return is written as an escape, for readers of TOML drop it."""
    marked = text.replace("\\", "\\\\").replace('"""', '""\\"')
    if marked.endswith('"'):
        marked = marked[:-1] + '\\"'
    return f'"""\n{_escape(marked)}"""'
