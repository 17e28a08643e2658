"""Runs proofs one after the other, so that one that fails does not stop the others."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from recede.benchmarks.measure import Row
from recede.policy.device import processor

Results: TypeAlias = dict[str, Any]
"""The rows; and by the name of a proof why it was skipped or failed, and its seconds."""


def nothing() -> Results:
    """The results of no proof."""
    return {"rows": [], "skipped": {}, "failed": {}, "seconds": {}}


def prove(
    proofs: Mapping[str, Callable[[], Iterator[Row]]],
    *,
    until: float,
    write: Callable[[Results], None],
    is_usable: Callable[[], bool],
    go_on: Callable[[list[str]], Results],
) -> Results:
    """Run the proofs in turn; prints a line for each.

    A proof that needs a missing package is skipped, and so is every proof that would begin after `until`, of
    `time.monotonic`. write: called with the results after each proof. is_usable: asked after a failure, whether this
    process can go on; if not, `go_on` returns the results of the rest.
    """
    results, names = nothing(), list(proofs)
    for index, name in enumerate(names):
        began = time.perf_counter()
        if time.monotonic() > until:
            results["skipped"][name] = "the time was over"
        else:
            _prove_one(name, proofs[name], results)
        results["seconds"][name] = round(time.perf_counter() - began, 1)
        skipped, failed = results["skipped"].get(name), results["failed"].get(name)
        verdict = f"skipped, {skipped}" if skipped else f"failed, {failed}" if failed else "done"
        print(f"{name}: {verdict} ({results['seconds'][name]} s)", flush=True)
        write(results)
        if failed and index + 1 < len(names) and not is_usable():
            results = _merged(results, go_on(names[index + 1 :]))
            write(results)
            break
    return results


def _prove_one(name: str, proof: Callable[[], Iterator[Row]], results: Results) -> None:
    try:
        for row in proof():
            results["rows"].append(Row(name=f"{name}: {row['name']}", value=row["value"], unit=row["unit"]))
    except ModuleNotFoundError as error:
        results["skipped"][name] = f"needs the package {error.name}, which is not installed"
    except Exception as error:
        traceback.print_exc()
        results["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())}"


def _merged(one: Results, other: Results) -> Results:
    return {"rows": one["rows"] + other["rows"]} | {
        key: one[key] | other[key] for key in ("skipped", "failed", "seconds")
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The card, the versions and the command."""
    is_gpu = device.type == "cuda"
    return {
        "card": processor(device),
        "processors": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if is_gpu else None,
            "numpy": np.__version__,
        },
        "command": " ".join(sys.argv),
    }
