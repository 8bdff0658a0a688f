"""What every verb works with: the options, the gateway, and where to print.

stdout carries what was asked for; messages, progress and errors go to stderr. So output can be piped anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from fleetlog.exits import CliError, Exit
from fleetlog.place import Place
from fleetlog.render.text import Style, clean_json, count_of

if TYPE_CHECKING:
    from fleetlog.client import Client
    from fleetlog.http import Gateway

CONFIRM_HOSTS_MIN = 51
"""From so many hosts on a person confirms: above what one looks over at a glance."""


class Console:
    """The options of one invocation, and what they lead to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.place = Place(options.data, options.url)
        self.json: bool = options.output_form == "json"
        self.out_style = _style(sys.stdout, options.color)
        self.err_style = _style(sys.stderr, options.color)
        self._gateway: Gateway | None = None
        self._told_frozen = False

    @property
    def gateway(self) -> Gateway:
        """Return the gateway, connected on first use."""
        if self._gateway is None:
            from fleetlog.http import Gateway

            self._gateway = Gateway(self.place.url, self.place.token, self.place.ca)
        return self._gateway

    def patient_gateway(self, timeout_s: float) -> Gateway:
        """Return a connection that waits longer for an answer (seconds)."""
        from fleetlog.http import Gateway

        return Gateway(self.place.url, self.place.token, self.place.ca, timeout_s)

    @property
    def client(self) -> Client:
        """Return a client on the same connection."""
        from fleetlog.client import Client

        return Client.over(self.gateway)

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def animated(self) -> bool:
        """Whether a line may be redrawn."""
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")

    def put(self, text: str) -> None:
        """Print what was asked for."""
        if text:
            print(text)

    def put_json(self, data: Any) -> None:
        """Print an answer as JSON."""
        print(clean_json(json.dumps(data, indent=2, ensure_ascii=False)))

    def say(self, text: str) -> None:
        """Print a message beside what was asked for."""
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)

    def say_frozen(self) -> None:
        """Say once that something is frozen, if the newest answer of the gateway said so."""
        told = self._gateway.frozen if self._gateway is not None else ""
        if told and not self._told_frozen:
            from fleetlog.render.policies import frozen_line

            self._told_frozen = True
            self.say(self.err_style.paint(frozen_line(told, self.err_style), "yellow"))

    def confirm_hosts(self, count: int) -> bool:
        """Ask before something runs on many hosts, and tell whether somebody was asked.

        Raises:
            CliError: refused, or there is nobody to ask.
        """
        if count < CONFIRM_HOSTS_MIN or self.options.yes:
            return False
        self.confirm(
            count, f"this runs on {count_of(count, 'host')}", "nothing was run",
            f": above {CONFIRM_HOSTS_MIN - 1} say --yes", "look first with --plan",
        )
        return True

    def confirm(self, count: int, what: str, otherwise: str, unasked: str, hint: str) -> None:
        """Let a person type the number of what is meant.

        Raises:
            CliError: it does not match, or there is nobody to ask.
        """
        if not self.interactive:
            raise CliError(Exit.TYPED_WRONG, f"{what}{unasked}", hint)
        print(f"{what}; type the number to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != str(count):
            raise CliError(Exit.TYPED_WRONG, f"{otherwise}: the number does not match")


def _style(stream: TextIO, color: str) -> Style:
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    if color == "auto":
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb")
        colour = stream.isatty() and not plain
    else:
        colour = color == "always"
    return Style(colour=colour, unicode=encoding.startswith("utf"))
