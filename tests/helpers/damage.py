"""Damage of every kind, the same for a seed: to the bytes of a file, and to the content of JSON."""

import copy
import json
import time
from contextlib import suppress

from recede.commands.composition import explain
from recede.files import DIGEST, with_digest

VALUES = [
    *(None, True, False, -1, 0, 1, 3, 0.5, -0.5, 10**30, -(10**30), 1e308, float("nan"), float("inf")),
    *("", "x", "../x", "1", "\x1b[2J", [], [[]], [None], [1, "a"], {}, {"a": 1}, {"choice": "x"}),
]
"""What stands in a JSON file in place of anything else."""


def places(content, before=()):
    """The paths of all entries, however deep."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*before, key)
        yield from places(value, (*before, key))


def altered(content, rng):
    """A copy with one to three entries of another kind, or without them."""
    result = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = [path for path in places(result) if path != (DIGEST,)]
        *above, key = rng.choice(paths)
        owner = result
        for step in above:
            owner = owner[step]
        if rng.random() < 0.2:
            del owner[key]
        elif isinstance(owner, list) and rng.random() < 0.2:
            owner += owner * rng.choice([1, 100])
        else:
            owner[key] = copy.deepcopy(rng.choice(VALUES))
    return result


def alter(path, rng):
    """Alter a JSON file. If it held a digest of itself, it holds that of its new content."""
    content = altered(json.loads(path.read_text()), rng)
    with suppress(ValueError):  # NaN and infinity have no digest
        content = with_digest(content) if DIGEST in content else content
    path.write_text(json.dumps(content) + "\n")


def spoil(path, rng):
    """Damage the bytes of a file, or put something else in its place."""
    content, kind = bytearray(path.read_bytes()), rng.randrange(7)
    place = rng.randrange(len(content) or 1)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        content.clear()
    elif kind == 2:
        content[place : place + 64] = rng.randbytes(min(64, len(content) - place))
    elif kind == 3:
        content[place:place] = rng.randbytes(rng.randrange(1, 20))
    elif kind < 6 and content:
        content[place] ^= 1 << rng.randrange(8)
    path.unlink()
    if kind == 6:
        path.mkdir()
    else:
        path.write_bytes(content)


def fate(read, command="inspect", seconds=60.0):
    """What `read` did: "" if it read the file, or the one line that a command prints of its error.

    Fails if the error would be a traceback, or takes longer than `seconds`.
    """
    begin = time.monotonic()
    try:
        read()
    except Exception as error:
        line = explain(error, command)
        if line is None or "\n" in line:
            raise
        assert line.isprintable(), line
        return line
    finally:
        took = time.monotonic() - begin
        assert took < seconds, f"{took:.1f} s"
    return ""
