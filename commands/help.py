"""The texts of `recede` alone, `recede --help` and `recede <command> --help`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from ..configs.choices import CHOICES
from ..configs.commands import COMMANDS
from ..configs.documentation import Choice, Key, choices, sections, summary

WIDTH = 100
"""Longest line in characters."""
KEY_WIDTH, DEFAULT_WIDTH = 28, 14
"""Widest columns. After a longer entry, the meaning begins on the next line."""

PRESETS = "preset=NAME sets many keys at once. Keys that you type take precedence."
ENDINGS = (
    "The exit status is 0 if all went well, 2 after an error, which is one line, and 128 + n if signal n ended the "
    "command: 130 after Ctrl-C, 143 after SIGTERM. `recede control` ends with 2 if the robot was stopped for safety, "
    "and `recede serve` with 0 after a signal."
)


START = """\
Recede trains diffusion policies from demonstrations. Your first policy takes three commands:

  recede collect task=pick_place episodes=150 out=data/pick_place.zarr
  recede train task=pick_place dataset=data/pick_place.zarr out=runs/pick_place
  recede evaluate runs/pick_place

They record a scripted expert, train on it, and measure the policy in unseen episodes. `recede demo`
does the same in minutes, beside a policy that regresses, and draws a report.

Help: `recede --help` lists all commands, and `recede <command> --help` the keys of one."""

"""The text of `recede` alone: where to begin, and where help is."""


def overview() -> str:
    """The text of `recede --help`: the commands by their use."""
    lines = ["usage: recede <command> [folder] key=value ..."]
    heading = ""
    for name, command in COMMANDS.items():
        if command.group != heading:
            heading = command.group
            lines += ["", heading]
        lines.append(f"  {name:<19}{command.summary}")
    return "\n".join(
        [
            *lines,
            "",
            "`recede <command> --help` lists the keys of a command with their defaults and meanings.",
            "Type a list as key=[a,b], a truth value as key=true, and no value as key=null.",
            "A text is taken as typed, and ~ at the beginning of a path is your home.",
            "With -m, a command runs once with each of the values key=a,b, in a numbered folder in out=FOLDER.",
            "A comma within one of these values is typed as \\,",
            "hydra/launcher=joblib runs these jobs side by side.",
            "",
            *wrap(ENDINGS, WIDTH),
        ]
    )


def usage(command: str) -> str:
    """The text of `recede <command> --help`: its purpose, its keys, and the choices for its slots."""
    config, positional = COMMANDS[command].config, COMMANDS[command].positional
    blocks = {heading or "Keys": keys for heading, keys in sections(config).items()}
    options = {slot: choices(slot) for slot in slots(command)}
    columns = _columns(blocks.values(), options.values())
    lines = [f"usage: recede {command}{f' <{positional}>' if positional else ''} key=value ...", ""]
    lines += wrap(summary(config), WIDTH)
    for heading, keys in blocks.items():
        lines += ["", heading, *(line for key in keys for line in _row(key, columns))]
    for slot, available in options.items():
        lines += ["", PRESETS if slot == "preset" else f"Choices for {slot}"]
        lines += [line for choice in available for line in _choice(choice, columns)]
    return "\n".join(lines)


def _columns(blocks: Iterable[list[Key]], options: Iterable[list[Choice]]) -> tuple[int, int]:
    """The widths of the columns of keys and of defaults on a page."""
    indented = [key for slot in options for choice in slot for key in choice.keys]
    keys = [key for block in blocks for key in block]
    paths = [len(key.path) for key in keys] + [len(key.path) + 2 for key in indented]
    defaults = [len(key.default) for key in keys + indented]
    return min(max(paths), KEY_WIDTH), min(max(defaults), DEFAULT_WIDTH)


def slots(command: str) -> list[str]:
    """The slots of a command and of what may fill them, such as `policy` and `policy/network`."""
    names = [slot for slot in CHOICES if slot.split("/")[0] in COMMANDS[command].config.__dataclass_fields__]
    return names + (["preset"] if COMMANDS[command].has_presets else [])


def _row(key: Key, columns: tuple[int, int], *, indent: str = "  ") -> Iterator[str]:
    """The lines of a key: its path, its default and its meaning side by side."""
    line, start = f"{indent + key.path:<{columns[0] + 2}}  {key.default}", sum(columns) + 6
    if len(line) + 2 > start:
        yield line
        line = ""
    yield from _beside(line.ljust(start), key.meaning)


def _choice(choice: Choice, columns: tuple[int, int]) -> Iterator[str]:
    """The lines of a choice: its description, then its keys."""
    yield from _beside(f"  {choice.argument:<{columns[0]}}  ", choice.summary)
    for key in choice.keys:
        yield from _row(key, columns, indent="    ")


def _beside(line: str, text: str) -> Sequence[str]:
    """A text that begins after `line` and goes on below itself."""
    lines = wrap(text, WIDTH, initial_indent=line, subsequent_indent=" " * len(line), break_on_hyphens=False)
    return lines or [line.rstrip()]
