"""Do the kernels keep within registers, without spills, and access memory 16 bytes at a time?"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import report
import static


# What this sees is a kernel that is slower than need be, mostly on every architecture: their registers differ by few.
@pytest.mark.parametrize("architecture", [*(pytest.param(a, marks=pytest.mark.slow) for a in (80, 86)), 90])
def test_limits(architecture: int, device: Any, tmp_path: Path) -> None:
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("ptxas was not found")
    found = static.resources(device.ptx, architecture, ptxas, tmp_path)
    source = max(known for known in device.ptx if known <= architecture)
    assert set(found) == set(device.kernels[source])
    problems = [p for name, used in found.items() for p in static.exceeded(name, used, device.kernels[source][name])]
    assert not problems, "\n".join(problems)


def test_every_limit_can_be_exceeded(device: Any) -> None:
    kernels = device.kernels[90]
    forward = next(name for name in kernels if "apply_34INS_10GivenGuide" in name)
    good = static.Resources(64, 0, 0, 0)
    assert not static.exceeded(forward, good, kernels[forward])
    for change in ({"registers": 110}, {"stack": 8}, {"spilled": 4}):
        assert static.exceeded(forward, dataclasses.replace(good, **change), kernels[forward]), change
    narrow = dataclasses.replace(kernels[forward], blocks=[])
    assert static.exceeded(forward, good, narrow)
    for limit in static.LIMITS:
        assert any(static.limit_of(name) is limit for name in kernels), f"no kernel has the limit {limit}"


@pytest.mark.parametrize("work", report.works(), ids=lambda w: f"{w.operation} {w.direction} {w.places}".strip())
def test_instructions_and_bytes(work: report.Work, device: Any) -> None:
    """A call issues no more instructions than it may, and moves each pixel once. What is not counted again: cells that
    many pixels of an explicit mesh or of rays share."""
    counted = report.count(device, work, 90)
    assert counted.instructions <= work.most, f"{work}: {counted.instructions:.0f} instructions a pixel"
    if work.places not in ("mesh", "rays"):
        most = work.least * (1 + report.MOST_OVER[work.direction]) + 1
        assert 0.99 * work.least < counted.bytes < most, f"{work}: {counted.bytes:.1f} bytes a pixel"
