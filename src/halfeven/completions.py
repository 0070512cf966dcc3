"""Completion scripts, made from the parser."""

import argparse

from halfeven.cli import build_parser


def print_completions(args: argparse.Namespace) -> int:
    """`halfeven completions SHELL`."""
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](_words()), end="")
    return 0


def _words() -> dict[str, list[str]]:
    """Flags by command."""
    found: dict[str, list[str]] = {}
    for name in ("quantize", "calibrate", "inspect", "verify", "demo", "completions"):
        parser = build_parser(name)
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        found[name] = [flag for a in commands.choices[name]._actions for flag in a.option_strings]
    return found


def _bash(words: dict[str, list[str]]) -> str:
    cases = "".join(f'    {name}) flags="{" ".join(flags)}" ;;\n' for name, flags in words.items())
    return (
        "_halfeven() {\n"
        '  local word="${COMP_WORDS[COMP_CWORD]}" flags=""\n'
        f'  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")); return; fi\n'
        f'  case "${{COMP_WORDS[1]}}" in\n{cases}  esac\n'
        '  case "$word" in -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;; *) COMPREPLY=($(compgen -f -- "$word")) ;; esac\n'
        "}\ncomplete -o filenames -F _halfeven halfeven\n"
    )


def _zsh(words: dict[str, list[str]]) -> str:
    return "#compdef halfeven\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(words)


def _fish(words: dict[str, list[str]]) -> str:
    lines = [f"complete -c halfeven -n __fish_use_subcommand -a '{' '.join(words)}'"]
    for name, flags in words.items():
        for flag in flags:
            kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            lines.append(f"complete -c halfeven -n '__fish_seen_subcommand_from {name}' {kind}")
    return "\n".join(lines) + "\n"
