"""Definitions as the gateway serves them, for tests of clients: folded by the shared fold, with the same refusals."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

import msgspec

from fleetlog_schemas import catalog, definition_events, events
from fleetlog_schemas.codec import Event, rfc3339
from fleetlog_schemas.definitions import Chosen, Definition, check_arguments, json_schema, task_of
from fleetlog_schemas.spec import Blob, Script, TaskSpec, kind

NOW_MS = 1_790_000_000_000


class DefinitionsServed(ABC):
    """The part of a recorded gateway that knows definitions."""

    headers: list[dict[str, str]]
    blobs: dict[str, bytes]

    def __init__(self) -> None:
        self.catalog = catalog.Catalog()
        self.versions: dict[tuple[str, int], catalog.Known] = {}
        self.author = "ada"
        self.rules: dict[str, Any] = {}
        """Of schedules, by name."""

    @abstractmethod
    def submit(self, task_id: str, spec: TaskSpec) -> None:
        """Store a submission."""

    def tell(self, data: events.Data) -> None:
        """Store an event of the catalog."""
        seq = len(self.versions) + 100
        catalog.apply(self.catalog, Event("e", "/t", data, NOW_MS, seq, events.CATALOG, self.author))
        if isinstance(data, definition_events.DefinitionSet):
            known = self.catalog.by_name[data.definition.name]
            self.versions[data.definition.name, known.version] = known

    def _get_definitions(self, parts: list[str], query: dict[str, str], _body: Any) -> tuple[int, Any]:
        if len(parts) == 1:
            items = [self._shown(known) for _, known in sorted(self.catalog.by_name.items())]
            return 200, {"items": items, "next_cursor": None}
        known = self.catalog.named(parts[1])
        version = int(query.get("version", 0))
        known = known and self.versions.get((known.definition.name, version or known.version))
        if known is None:
            return _problem(404, "definition-not-found", f"no definition is named {parts[1]}")
        match parts[2:]:
            case []:
                return 200, {**self._shown(known), "definition": known.definition}
            case ["schema"]:
                return 200, json_schema(known.definition)
            case ["content"]:
                spec = known.definition.spec
                found = {"stdin": spec.options.stdin, "env": spec.options.env}
                if isinstance(spec.payload, Script):
                    found["script"] = spec.payload.content
                blob = found[query["part"]]
                assert blob is not None
                return 200, self.blobs[blob.sha256]
            case _:
                assert parts[2:] == ["versions"]
                of_name = [one for (name, _), one in self.versions.items() if name == known.definition.name]
                return 200, {"items": [self._shown(one) for one in reversed(of_name)], "next_cursor": None}

    def _get_schedules(self, parts: list[str], query: dict[str, str], _body: Any) -> tuple[int, Any]:
        if len(parts) == 1:
            items = [
                {"name": name, "rule": rule} for name, rule in sorted(self.rules.items())
                if rule["definition"] == query.get("definition", rule["definition"])
            ]
            return 200, {"items": items, "next_cursor": None}
        if parts[1] not in self.rules:
            return _problem(404, "schedule-not-found", f"no schedule is named {parts[1]}")
        return 200, {"name": parts[1], "rule": self.rules[parts[1]], "etag": 7, "state": "active", "next": []}

    def _put_schedules(self, parts: list[str], _query: dict[str, str], body: Any) -> tuple[int, Any]:
        self.rules[parts[1]] = body["rule"]
        return 200, {"name": parts[1], "seq": 7}

    def _post_definitions(self, parts: list[str], _query: dict[str, str], body: Any) -> tuple[int, Any]:
        if len(parts) > 2:
            return self._run(self.catalog.by_name[parts[1]], body)
        return self._set(body)

    def _put_definitions(self, parts: list[str], _query: dict[str, str], body: Any) -> tuple[int, Any]:
        known = self.catalog.by_name[parts[1]]
        if self.headers[-1]["if-match"] not in ("*", f'"{known.version}"'):
            return _problem(412, "version-changed", f"by now it is {known.version}")
        return self._set(body)

    def _delete_definitions(self, parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        known = self.catalog.by_name[parts[1]]
        assert self.headers[-1]["if-match"] == f'"{known.version}"'
        self.tell(definition_events.DefinitionRemoved(known.definition_id, parts[1]))
        return 200, {"name": parts[1], "version": known.version, "seq": 1}

    def _set(self, body: Any) -> tuple[int, Any]:
        definition = msgspec.convert(body["definition"], Definition)
        known = self.catalog.by_name.get(definition.name)
        definition_id = known.definition_id if known else f"id-{definition.name}-{len(self.versions)}"
        version = self.catalog.last_version(definition.name) + 1
        self.tell(definition_events.DefinitionSet(definition_id, version, definition, body["message"]))
        return 201, {"name": definition.name, "definition_id": definition_id, "version": version, "seq": 1, "changed": True}

    def _run(self, known: catalog.Known, body: Any) -> tuple[int, Any]:
        known = self.versions[known.definition.name, body["version"] or known.version]
        arguments = check_arguments(known.definition.parameters, body["parameters"])
        content = json.dumps(arguments.secrets).encode()
        env = Blob(hashlib.sha256(content).hexdigest(), len(content), "env") if arguments.secrets else None
        chosen = Chosen(body["target"], body["narrow"], body["plan_hash"])
        task_id = self.headers[-1]["idempotency-key"]
        self.submit(task_id, task_of(known.definition, known.definition_id, known.version, arguments, env, chosen))
        return 202, {"task_id": task_id, "seq": 1, "definition": known.definition.name, "version": known.version}

    def _shown(self, known: catalog.Known) -> dict[str, Any]:
        spec = known.definition.spec
        return {
            "name": known.definition.name, "definition_id": known.definition_id, "version": known.version, "kind": kind(spec),
            "description": known.definition.description, "target": spec.target, "parameters": list(known.definition.parameters),
            "changed_at": rfc3339(known.changed_ms), "changed_by": known.changed_by, "message": known.message,
        }


def _problem(status: int, code: str, detail: str) -> tuple[int, Any]:
    return status, {"title": code, "detail": detail, "code": code}
