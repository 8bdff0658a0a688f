"""The reference of this vocabulary as Markdown tables, made from the code so that it cannot differ from it.

Strategy: what runs (registry, transition tables, streams) is read from the objects; what only a reader needs (the
reason below a constant or a member) is read from the source. `docs/generate.py` writes the pages, and a test
compares them with what this module returns.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from types import ModuleType
from typing import Any

from fleetlog_schemas import events, limits, outcomes, subjects
from fleetlog_schemas.lifecycle import ATTEMPT_TRANSITIONS, TASK_TRANSITIONS

_MIB = 1024 * 1024


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def documented_values(source: ModuleType | type, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names that a module or class assigns, each with the text below it.

    Of a module, *name* chooses one class inside; without it, the module's own constants.
    """
    body: list[ast.stmt] = ast.parse(inspect.getsource(source).lstrip()).body
    if isinstance(source, type):
        body = next(node.body for node in body if isinstance(node, ast.ClassDef))
    elif name:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            target = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            target = statement.targets[0].id
        else:
            continue
        yield target, _text_of(following)


def _text_of(statement: ast.stmt | None) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
    return " ".join(text.split())


def first_sentence(owner: type) -> str:
    """Return the first sentence of a docstring in one line."""
    text = " ".join((inspect.getdoc(owner) or "").split())
    return text.split(". ")[0].rstrip(".") + "."


def event_table() -> str:
    """Return every event: its type, subject, writer and readers."""
    rows = [
        (f"`{row.name}`", ", ".join(f"`{one}`" for one in dict.fromkeys(row.subject.split())), ", ".join(row.written_by.split()),
         ", ".join(row.read_by), first_sentence(row.data))
        for row in sorted(events.REGISTRY.values(), key=lambda row: (row.subject, row.name))
    ]
    return table(("event", "subject", "written by", "read by", "says"), rows)


def stream_table() -> str:
    """Return every stream with what it keeps."""
    return table(("stream", "subjects", "reserved", "kept", "why"), [_stream_row(one) for one in subjects.STREAMS])


def _stream_row(stream: subjects.Stream) -> tuple[str, ...]:
    kept = "until acknowledged" if stream.work_queue else "newest only" if stream.per_subject_max == 1 else "all"
    if stream.age_seconds_max:
        kept = f"{stream.age_seconds_max // 86_400} days"
    if stream.ttl:
        kept += ", expires"
    kept += "; refuses when full" if stream.discard_new else "; oldest out first"
    if stream.deny_delete:
        kept += "; no message can be deleted"
    names = ", ".join(f"`{subject}`" for subject in stream.subjects)
    return f"`{stream.name}`", names, _bytes(stream.bytes_max), kept, stream.why


def _bytes(count: int) -> str:
    return f"{count // 1024**3} GiB" if count >= 1024**3 else f"{count // _MIB} MiB"


def limit_table() -> str:
    """Return every limit of what may be written, with its reason."""
    rows = [(f"`{name}`", f"{getattr(limits, name):,}", text) for name, text in documented_values(limits) if name.isupper()]
    return table(("limit", "value", "means"), rows)


def outcome_table() -> str:
    """Return the outcomes in order of severity."""
    texts = dict(documented_values(outcomes, "Outcome"))
    rows = [(f"`{one}`", texts[one.name], "yes" if one in outcomes.RERUN_OUTCOMES else "") for one in outcomes.Outcome]
    return table(("outcome", "means", "taken by `rerun --failed`"), rows)


def _short(data: type[events.Data]) -> str:
    return events.NAMES[data].removeprefix("fleetlog.").removesuffix(".v1")


def lifecycle_table() -> str:
    """Return every transition of tasks and attempts."""
    rows = [(what, *row) for what, found in (("task", TASK_TRANSITIONS), ("attempt", ATTEMPT_TRANSITIONS))
            for row in _transition_rows(found)]
    return table(("what", "from", "event", "to"), rows)


def _transition_rows(transitions: Mapping[Any, Any]) -> list[tuple[str, str, str]]:
    return [(before or "(none)", f"`{_short(data)}`", after) for (before, data), after in transitions.items()]


def lifecycle_diagram() -> str:
    """Return the same transitions as Mermaid state diagrams."""
    return _diagram(TASK_TRANSITIONS) + "\n" + _diagram(ATTEMPT_TRANSITIONS)


def _diagram(transitions: Mapping[Any, Any]) -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {before or '[*]'} --> {after}: {_short(data)}" for (before, data), after in transitions.items()]
    ends = {after for after in transitions.values() if not any(before == after for before, _ in transitions)}
    lines += [f"    {state} --> [*]" for state in sorted(ends)]
    return "\n".join([*lines, "```"]) + "\n"


def trace() -> list[dict[str, Any]]:
    """Return the golden trace: the events of one task, with the states they lead to."""
    text = (resources.files("fleetlog_schemas") / "golden" / "trace.json").read_text()
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def trace_table() -> str:
    """Return the golden trace as a table: what was stored, and where the task and each command then stand."""
    rows = trace()
    names = list(rows[-1]["commands"])
    start = rows[0]["stored_at"]
    cells = [
        (str(row["seq"]), row["stored_at"][17:-1] if row["stored_at"][:17] == start[:17] else row["stored_at"],
         f"`{row['event']['type'].removeprefix('fleetlog.').removesuffix('.v1')}`", row["note"], row["task"],
         *(row["commands"].get(name, "") for name in names))
        for row in rows
    ]
    return table(("seq", "s", "event", "what it means", "task", *names), cells)


def trace_example(seq: int) -> str:
    """Return one stored event of the golden trace, as JSON."""
    row = next(row for row in trace() if row["seq"] == seq)
    return "```json\n" + json.dumps(row["event"], indent=2) + "\n```\n"
