"""The memory that a call takes in addition to inputs and outputs, by size, layout and dtype; in a separate process."""

from __future__ import annotations

from typing import Any

import pytest
from cases import ALL_F32, F16, F32, U8, Dtypes
from suite import SIZES, TINY, require_memory
from test_memory import READABLE, added

GIGANTIC = {"11547x8660": (8660, 11547)}
CALLS = {
    "slice_apply": ("slice_apply", False),
    "slice_apply_vjp": ("slice_apply", True),
    "enhance": ("enhance(curves)", False),
}
LAYOUTS = ("interleaved", "channels first", "flipped", "cropped")
DTYPES = (ALL_F32, Dtypes(F16, F32, F16), Dtypes(U8, F32, F32))
#: Every layout and dtype at one size, every size in one layout and dtype.
CASES = [
    *((call, "1920x1080", layout, dtypes) for call in CALLS for layout in LAYOUTS for dtypes in DTYPES),
    *((call, size, "interleaved", ALL_F32) for call in CALLS for size in (*SIZES, *GIGANTIC) if size != "1920x1080"),
]


@READABLE
@pytest.mark.parametrize(("call", "size", "layout", "dtypes"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_peak_memory(benchmark: Any, call: str, size: str, layout: str, dtypes: Dtypes) -> None:
    shape = next(iter(TINY.values())) if benchmark.disabled else {**SIZES, **GIGANTIC}[size]
    subject, backward = CALLS[call]
    require_memory(call.removesuffix("_vjp"), backward, *shape)
    benchmark.group = "peak memory (the time is the child process's)"
    taken = benchmark.pedantic(added, (subject, dtypes, layout, backward), {"size": shape})
    benchmark.extra_info.update(
        call=call, size=size, layout=layout, dtype=str(dtypes.image), added=taken, scan="memory"
    )
