"""The pages about recording: their input is one, and their keys are those of the console."""

import re
from pathlib import Path

import numpy as np
import recede
from recede.configs.choices import CHOICES
from recede.configs.components.inputs import INPUTS
from recede.realtime import VirtualClock
from recede.recording.console import Console
from recede.robots.interface import Reading
from recede.teleoperation.interface import ORDERS
from toys import REACH

DOCUMENTS = Path(recede.__file__).parent / "docs"


def test_the_input_of_the_page_keeps_its_promises_and_is_a_choice(monkeypatch, capsys):
    first, second = re.findall(r"```python\n(.*?)```", (DOCUMENTS / "inputs.md").read_text(), re.DOTALL)
    monkeypatch.setattr("recede.realtime.MonotonicClock", VirtualClock)
    names = {"__name__": "my_hands"}
    try:
        exec(first + second.replace("VirtualClock()", "VirtualClock()"), names)
        assert "all right: the velocity input" in capsys.readouterr().out
        config = CHOICES["input"]["pedal"](axes=["forward", "none"], scale=0.1)
        pedal = config.build(None)
        clutch = config.clutch(pedal, REACH.specification)
        for now in (0.0, 0.1):
            target = clutch.target(Reading(np.array([0.5]), now), np.zeros(2), now)
        np.testing.assert_allclose(target, [0.005, 0.0])
    finally:
        CHOICES["input"].pop("pedal", None)


def test_the_page_lists_every_input():
    page = (DOCUMENTS / "record.md").read_text()
    for name in INPUTS:
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE)


def test_every_key_gives_orders_and_the_rest_is_left_to_the_input():
    keys = {
        "ready": {b"\n": ["begin"], b"u": ["undo"], b"q": ["quit"], b"x": []},
        "recording": {b"\n": ["end"], b"\x7f": ["discard"], b"q": [], b"s": []},
        "ended": {b"s": ["success", "keep"], b"f": ["failure", "keep"], b"k": ["keep"], b"d": ["discard"], b"\n": []},
        "preparing": {b"q": ["quit"], b"\n": []},
    }
    for phase, expected in keys.items():
        for key, kinds in expected.items():
            orders, rest = Console().orders(key, phase)
            assert [order.kind for order in orders] == kinds
            assert rest == (b"" if kinds else key)
            assert {*kinds} <= {*ORDERS}
