"""Would the checks see a bug? Each planted one must be seen by the check that is there for its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backends import Through
from cases import (
    ALL_F32,
    DIFFERENTIABLE,
    assert_forward,
    assert_gradient,
    backward,
    backward_example,
    cases_of,
    forward,
    forward_example,
)
from interpreter import KernelError, Uninitialised, machine
from mutants import MUTANTS, SOURCES, kernels, planted

ARCHITECTURE = 90


def _compare(package: Through, subject: str, case: str) -> None:
    example = forward_example(subject, case, ALL_F32)
    got = forward(package, subject, example.arguments, **example.keywords)
    assert_forward(got, example.result, example.dtype)
    if subject in DIFFERENTIABLE:
        example = backward_example(subject, case, ALL_F32)
        gradients = backward(package, subject, example.arguments, example.grad, **example.keywords)
        for name, gradient in gradients._asdict().items():
            if gradient is not None:
                want, bound = getattr(example.gradients, name), example.contributions[name]
                assert_gradient(gradient, want, bound, gradient.dtype, name)


@pytest.mark.skipif(not SOURCES.exists(), reason="the sources are not here")
@pytest.mark.parametrize("name", MUTANTS)
def test_it_can_be_planted(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.text()
    assert mutant.case in cases_of(mutant.subject)
    assert (SOURCES / "cuda" / f"{mutant.compiled}.cu").exists()


#: What is compiled in a second: its mutants are planted in every run, the others by `nox -s mutants`.
SHORT = "total_variation"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (MUTANTS[n].compiled != SHORT)) for n in MUTANTS]
)
def test_mutants(
    name: str, nvcc: str, device: Any, on_device: Through, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = MUTANTS[name]
    device.reset(ARCHITECTURE)
    _compare(on_device, mutant.subject, mutant.case)  # without the bug there is nothing to see
    monkeypatch.setattr(machine, "MOST_STEPS", 100_000)
    changed = kernels(nvcc, planted(mutant, tmp_path), mutant.compiled, ARCHITECTURE, tmp_path)
    for kernel, code in changed.items():
        assert kernel in device.kernels[ARCHITECTURE]
        monkeypatch.setitem(device.kernels[ARCHITECTURE], kernel, code)
    device.reset(ARCHITECTURE)
    with pytest.raises((KernelError, AssertionError)) as raised:
        _compare(on_device, mutant.subject, mutant.case)
    # A result that nobody wrote is noticed when it is fetched.
    unwritten = mutant.caught is Uninitialised and "unwritten" in str(raised.value)
    assert isinstance(raised.value, mutant.caught) or unwritten, repr(raised.value)


def test_mutants_are_compiled_as_the_package_is(nvcc: str, device: Any, tmp_path: Path) -> None:
    """Without a bug, what is compiled for mutants is what the objects hold."""
    found = kernels(nvcc, SOURCES, "total_variation", ARCHITECTURE, tmp_path)
    for name, kernel in found.items():
        shipped = device.kernels[ARCHITECTURE][name]
        assert [i.text for block in kernel.blocks for i in block] == [i.text for block in shipped.blocks for i in block]
