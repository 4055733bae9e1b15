"""Do the sanitizers see what they are there for? (Only in a build that has them: `nox -s sanitize`.)"""

from __future__ import annotations

import subprocess
import sys

import pytest

from bilateral_ops import _cpu

pytestmark = pytest.mark.skipif(
    not hasattr(_cpu, "planted_overflow"), reason="not a sanitizer build; nox -s sanitize makes one"
)


@pytest.mark.parametrize(
    ("call", "report"),
    [
        ("planted_overflow(1000)", "heap-buffer-overflow"),
        ("planted_undefined(40)", "shift exponent 40 is too large"),
    ],
)
def test_a_planted_bug_is_reported(call: str, report: str) -> None:
    code = f"from bilateral_ops import _cpu; _cpu.{call}"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.returncode != 0
    assert report in finished.stderr
