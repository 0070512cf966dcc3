"""Completion scripts, made from the parser: commands, their options, and the values of options that have few.

bash and zsh share one function (zsh through `bashcompinit`); fish has a line for each option.
"""

import argparse
from dataclasses import dataclass

from halfeven.arguments import ARGUMENTS
from halfeven.cli import build_parser, subparser
from halfeven.wording import SUMMARIES


@dataclass(frozen=True)
class Flag:
    """One option: its spellings, whether a value follows, and the values if they are few."""

    names: tuple[str, ...]
    valued: bool
    values: tuple[str, ...]


def print_completions(args: argparse.Namespace) -> int:
    """`halfeven completions SHELL`."""
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](), end="")
    return 0


def _flags(command: str) -> list[Flag]:
    """The options of a command."""
    found = []
    for action in subparser(build_parser(command), command)._actions:
        names = tuple(action.option_strings)
        values = tuple(str(c) for c in action.choices or ()) or _presets().get(names[-1] if names else "", ())
        found.append(Flag(names, action.nargs != 0, values))
    return found


def _presets() -> dict[str, tuple[str, ...]]:
    """Values of options that are more than one word, but mostly are one."""
    from halfeven.data.preprocess import PRESETS
    from halfeven.options import OPTIONAL
    from halfeven.stats.estimate import METHODS

    return {"--preprocess": tuple(PRESETS), "--skip": OPTIONAL, "--calibrate": tuple(METHODS)}


def _bash() -> str:
    flags, values = "", ""
    for command in ARGUMENTS:
        found = _flags(command)
        words = " ".join(name for flag in found for name in flag.names)
        flags += f'    {command}) flags="{words}" ;;\n'
        for flag in found:
            if flag.values:
                keys = "|".join(f"{command}:{name}" for name in flag.names) or f"{command}:{command}"
                values += f'    {keys}) values="{" ".join(flag.values)}" ;;\n'
    return f"""_halfeven() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
  local flags="" values=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(ARGUMENTS)} --help --version" -- "$word"))
    return
  fi
  case "$command" in
{flags}  esac
  case "$command:$before" in
{values}  esac
  if [ "${{word#-}}" != "$word" ]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  elif [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  else
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _halfeven halfeven
"""


def _zsh() -> str:
    return (
        "#compdef halfeven\nautoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
        + _bash()
    )


def _fish() -> str:
    lines = [f"complete -c halfeven -f -n __fish_use_subcommand -a {name} -d '{SUMMARIES[name]}'" for name in ARGUMENTS]
    for command in ARGUMENTS:
        for flag in _flags(command):
            line = f"complete -c halfeven -n '__fish_seen_subcommand_from {command}'"
            line += "".join(f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}" for n in flag.names)
            if flag.values:
                line += f" -x -a '{' '.join(flag.values)}'"
            elif flag.valued and flag.names:
                line += " -r"
            if flag.names or flag.values:
                lines.append(line)
    return "\n".join(lines) + "\n"
