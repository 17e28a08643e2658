"""A time names the processor that it was measured on."""

import re

import torch
from recede.policy import device
from recede.policy.device import processor

CPUINFO = """\
processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: A CPU
flags\t\t: fpu amx_tile avx2

processor\t: 1
model name\t: Another
"""


def test_the_processor_of_this_machine():
    name = processor(torch.device("cpu"))
    assert re.search(rf"\w.*, {torch.backends.cpu.get_cpu_capability()}.*, {torch.get_num_threads()} threads$", name)


def test_a_processor_is_named_with_its_model_and_its_instructions(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "cpuinfo")
    assert processor(torch.device("cpu")).startswith("A CPU (family 6, model 143), ")
    assert " and AMX, " in processor(torch.device("cpu"))
