"""What a newcomer runs: `nox -s tests`. `nox -l` lists the rest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"


@nox.session
def tests(session: nox.Session) -> None:
    """Build the package and run its tests (CPU)."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def frameworks(session: nox.Session) -> None:
    """The tests that need PyTorch and JAX, which are too large to ask of everyone."""
    session.install(".[test]", "torch==2.13.0", "jax")
    session.run("pytest", "tests/test_gradcheck.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types."""
    session.install("pre-commit", "numpy", "nox", "mypy")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Build with AddressSanitizer and UndefinedBehaviorSanitizer and run the tests so (Linux, g++)."""
    session.install(
        ".[bfloat16,fit]",
        "hypothesis",
        "pytest",
        "-Ccmake.define.BILATERAL_OPS_SANITIZE=ON",
        "-Ccmake.define.BILATERAL_OPS_WARNINGS=ON",
        "-Cinstall.strip=false",
    )
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    session.run(
        "pytest",
        *session.posargs,
        env={
            "LD_PRELOAD": ":".join(libraries),
            # Python itself never frees all it has; a failed allocation is a test's subject, not an error.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Time every operation beside its peers and write docs/benchmarks/ (half an hour; leave the machine alone)."""
    session.install(".[bench]", "torch==2.13.0", "jax")
    file = str(Path(session.create_tmp(), "benchmarks.json"))
    options = ["--benchmark-columns=median,rounds", "--benchmark-sort=median", "--benchmark-group-by=group"]
    session.run("pytest", "benchmarks", f"--benchmark-json={file}", *options, *session.posargs)
    if not session.posargs:  # a part of the benchmarks is no report
        session.run("python", "benchmarks/report.py", file)
