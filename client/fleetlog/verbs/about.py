"""version, help and completion: what the command line says of itself."""

from __future__ import annotations

import argparse
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import MEANINGS, CliError, Exit
from fleetlog_schemas.version import VERSION


def version(console: Console) -> int:
    """Print the versions of this client and of the gateway, if there is one."""
    found: dict[str, Any] = {"client": VERSION, "gateway": None}
    try:
        found["gateway"] = console.gateway.get("/version")
    except CliError as error:
        console.say(error.message)
    if console.json:
        console.put_json(found)
        return Exit.OK
    console.put(f"client   {found['client']}")
    answer = found["gateway"]
    if answer is not None:
        data = answer.get("data", answer)
        gateway = data.get("version", "unknown") if isinstance(data, dict) else str(data)
        console.put(f"gateway  {gateway}  at {console.gateway.url}")
    return Exit.OK


def help_topic(console: Console) -> int:
    """Explain a topic, or print the help of a verb."""
    from fleetlog.parser import build

    topic = console.options.topic
    if topic == "exit-codes":
        if console.json:
            console.put_json({str(int(code)): meaning for code, meaning in MEANINGS.items()})
        else:
            console.put("\n".join(f"{int(code):>4}  {meaning}" for code, meaning in MEANINGS.items()))
        return Exit.OK
    parser = build()
    if not topic:
        parser.print_help()
        return Exit.OK
    found = verbs_of(parser).get(topic)
    if found is None:
        raise CliError(Exit.TYPED_WRONG, f"no help for {topic!r}", "topics: exit-codes, or a verb of `fleetlog --help`")
    found.print_help()
    return Exit.OK


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's verbs, by name; aliases too."""
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to list what it was given
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # same
            return dict(action.choices)
    return {}


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long options of a parser, sorted."""
    return sorted(text for action in parser._actions for text in action.option_strings if text.startswith("--"))  # noqa: SLF001  # same


def completion(console: Console) -> int:
    """Print a completion script of verbs and options."""
    from fleetlog.parser import build

    console.put(_SCRIPTS[console.options.shell](verbs_of(build())))
    return Exit.OK


def _words(parser: argparse.ArgumentParser) -> str:
    return " ".join([*verbs_of(parser), *options_of(parser)])


def _bash(verbs: dict[str, argparse.ArgumentParser]) -> str:
    cases = "\n".join(f"    {name}) words='{_words(parser)}' ;;" for name, parser in verbs.items())
    return f"""_fleetlog() {{
  local words
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words='' ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words='{" ".join(verbs)}'
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _fleetlog fleetlog"""


def _zsh(verbs: dict[str, argparse.ArgumentParser]) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(verbs)


def _fish(verbs: dict[str, argparse.ArgumentParser]) -> str:
    lines = [f"complete -c fleetlog -f -n __fish_use_subcommand -a '{' '.join(verbs)}'"]
    for name, parser in verbs.items():
        inner = " ".join(verbs_of(parser))
        if inner:
            lines.append(f"complete -c fleetlog -f -n '__fish_seen_subcommand_from {name}' -a '{inner}'")
        lines += [
            f"complete -c fleetlog -n '__fish_seen_subcommand_from {name}' -l {option[2:]}"
            for option in options_of(parser)
        ]
    return "\n".join(lines)


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
