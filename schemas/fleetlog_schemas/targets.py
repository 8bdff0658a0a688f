"""Which hosts an expression means.

    target     = expression { "," expression }              union
    expression = conjunction { "or" conjunction }
    conjunction = term { "and" term }
    term       = ("not" | "!") term | "(" target ")" | predicate
    predicate  = KEY ("=" | "!=") VALUE | KEY ["not"] "in" "(" VALUE { "," VALUE } ")" | "all" | NAME
    NAME       = host id, host name, glob (`web*`), or range (`web[01-40,42]`); VALUE may be a glob

Pure. A name without a glob that no host has is an error, and so is an expression that means no host: a typo never
runs on fewer hosts than were meant, and never on all.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable

from fleetlog_schemas import hostset
from fleetlog_schemas.hosts import Host

TARGETS_KNOWN_MAX = 1_000
"""Targets whose hosts are remembered; all are forgotten when there are more."""
DEPTH_MAX = 50
"""Nested parentheses and negations: more than anybody writes, and few enough for any stack."""

_TOKEN = re.compile(r"\s*(?:(?P<mark>!=|[(),=!])|(?P<word>(?:\[[^\[\]]*\]|[^\s(),=!\[\]])+)|(?P<bad>\S))")
_KEYWORDS = frozenset({"and", "or", "not", "in"})
Chosen = frozenset[str]


class TargetError(ValueError):
    """The expression cannot be read, names a host that does not exist, or means no host. `code` tells which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def resolve(target: str, hosts: Iterable[Host], *, lenient: bool = False) -> list[Host]:
    """Return the unrevoked *hosts* that *target* means, by name.

    *lenient* is for a standing rule, which outlives hosts: names that no host has, and no host at all, are no error.

    Raises:
        TargetError: `target-syntax`, `target-unknown` or `target-empty`.
    """
    return Directory(hosts).resolve(target, lenient=lenient)


class Directory:
    """The unrevoked hosts of one moment, ready for many targets: what one meant is remembered.

    Whoever keeps one makes another when a host is enrolled, revoked or labelled.
    """

    def __init__(self, hosts: Iterable[Host]) -> None:
        """Index *hosts*."""
        self.by_id = {host.host_id: host for host in hosts if not host.revoked}
        self.everyone = frozenset(self.by_id)
        self.by_name: dict[str, set[str]] = {}
        for host in self.by_id.values():
            self.by_name.setdefault(host.name, set()).add(host.host_id)
            self.by_name.setdefault(host.host_id, set()).add(host.host_id)
        self._known: dict[tuple[str, bool], list[Host]] = {}

    def resolve(self, target: str, *, lenient: bool = False) -> list[Host]:
        """Return what `resolve` returns of these hosts. Raises TargetError."""
        known = self._known.get((target, lenient))
        if known is not None:
            return list(known)
        chosen = _Parser(target, self, lenient=lenient).parse()
        if not chosen and not lenient:
            raise TargetError("target-empty", f"{target!r} means no host: `fleetlog host ls` shows names and labels")
        found = sorted((self.by_id[host_id] for host_id in chosen), key=lambda host: (host.name, host.host_id))
        if len(self._known) >= TARGETS_KNOWN_MAX:
            self._known.clear()
        self._known[target, lenient] = found
        return list(found)


class _Parser:
    """Recursive descent over the tokens; evaluates while it reads."""

    def __init__(self, text: str, directory: Directory, *, lenient: bool) -> None:
        self._text = text
        self._lenient = lenient
        self._hosts = directory.by_id.values()
        self._all = directory.everyone
        self._by_name = directory.by_name
        self._tokens = list(self._split(text))
        self._at = 0
        self._depth = 0

    def _split(self, text: str) -> Iterable[str]:
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None or match["bad"]:
                raise self._wrong(f"cannot read {stripped[position : position + 10]!r}")
            yield match["mark"] or match["word"]
            position = match.end()

    def _wrong(self, what: str) -> TargetError:
        return TargetError("target-syntax", f"{what} in target {self._text[:200]!r}")

    def _peek(self, ahead: int = 0) -> str:
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else ""

    def _take(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _expect(self, wanted: str) -> None:
        if self._take() != wanted:
            raise self._wrong(f"expected {wanted!r}")

    def parse(self) -> Chosen:
        if not self._tokens:
            raise TargetError("target-empty", "the target is empty: an empty target never means every host")
        chosen = self._union()
        if self._peek():
            raise self._wrong(f"did not expect {self._peek()!r}")
        return chosen

    def _union(self) -> Chosen:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong(f"more than {DEPTH_MAX} levels of nesting")
        chosen = self._either()
        while self._peek() == ",":
            self._take()
            chosen |= self._either()
        self._depth -= 1
        return chosen

    def _either(self) -> Chosen:
        chosen = self._both()
        while self._peek() == "or":
            self._take()
            chosen |= self._both()
        return chosen

    def _both(self) -> Chosen:
        chosen = self._term()
        while self._peek() == "and":
            self._take()
            chosen &= self._term()
        return chosen

    def _term(self) -> Chosen:
        word = self._peek()
        if word in ("not", "!"):
            self._take()
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise self._wrong(f"more than {DEPTH_MAX} levels of nesting")
            chosen = self._all - self._term()
            self._depth -= 1
            return chosen
        if word == "(":
            self._take()
            chosen = self._union()
            self._expect(")")
            return chosen
        return self._predicate()

    def _word(self, what: str) -> str:
        word = self._take()
        if not word or word in _KEYWORDS or word in "(),=!" or word == "!=":
            raise self._wrong(f"expected {what} before {word!r}" if word else f"expected {what} at the end")
        return word

    def _predicate(self) -> Chosen:
        word = self._word("a host name or a label")
        follows = self._peek()
        if follows in ("=", "!="):
            self._take()
            found = self._labelled(word, [self._word("a label's value")])
            return found if follows == "=" else self._all - found
        negated = follows == "not" and self._peek(1) == "in"
        if follows == "in" or negated:
            self._at += 2 if negated else 1
            found = self._labelled(word, self._values())
            return self._all - found if negated else found
        return self._named(word)

    def _values(self) -> list[str]:
        self._expect("(")
        values = [self._word("a label's value")]
        while self._peek() == ",":
            self._take()
            values.append(self._word("a label's value"))
        self._expect(")")
        return values

    def _labelled(self, key: str, patterns: list[str]) -> Chosen:
        tests = [_matcher(pattern) for pattern in patterns]
        return frozenset(
            host.host_id for host in self._hosts if key in host.labels and any(t(host.labels[key]) for t in tests)
        )

    def _named(self, word: str) -> Chosen:
        if word == "all":
            return self._all
        if "*" in word or "?" in word:
            test = _matcher(word)
            return frozenset(i for name, ids in self._by_name.items() if test(name) for i in ids)
        try:
            names = list(hostset.expand(word))
        except hostset.BadRange as error:
            raise TargetError("target-syntax", str(error)) from None
        missing = [name for name in names if name not in self._by_name]
        if missing and not self._lenient:
            raise TargetError("target-unknown", self._unknown(missing))
        return frozenset(host_id for name in names for host_id in self._by_name.get(name, ()))

    def _unknown(self, missing: list[str]) -> str:
        close = [f"{key}={value}" for one in self._hosts for key, value in one.labels.items() if value == missing[0]]
        close += difflib.get_close_matches(missing[0], list(self._by_name), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; `fleetlog host ls` shows the hosts"
        return f"no host is named {hostset.fold(missing)}{hint}"


def _matcher(pattern: str) -> Callable[[str], bool]:
    if "*" in pattern or "?" in pattern:
        # A bracket is a range in this language, never a character class.
        compiled = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
        return lambda text: compiled.match(text) is not None
    return lambda text: text == pattern
