"""The registers, stack, spills and shared memory that ptxas gives the kernels, and their limits."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from interpreter import Kernel
from standin.devices import DEVICES, Device


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int  # bytes per thread
    spilled: int  # bytes stored and loaded
    shared: int  # static bytes


_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.S,
)


def resources(ptx: Mapping[int, list[str]], architecture: int, ptxas: str, folder: Path) -> dict[str, Resources]:
    """Of every kernel, compiled for an architecture from the newest PTX that is older."""
    source = max(known for known in ptx if known <= architecture)

    def compile_one(numbered: tuple[int, str]) -> dict[str, Resources]:
        number, text = numbered
        file = folder / f"{architecture}_{number}.ptx"
        file.write_text(text)
        command = [ptxas, "-v", "--fmad", "false", f"-arch=sm_{architecture}", file, "-o", file.with_suffix(".cubin")]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        return {
            m[1]: Resources(int(m[5]), int(m[2]), int(m[3]) + int(m[4]), int(m[6] or 0)) for m in _ENTRY.finditer(said)
        }

    found: dict[str, Resources] = {}
    with ThreadPoolExecutor(2) as pool:
        for part in pool.map(compile_one, enumerate(ptx[source])):
            found |= part
    return found


def wide_accesses(kernel: Kernel) -> dict[str, int]:
    """How many instructions access 16 bytes at once, by kind and space."""
    counts: dict[str, int] = {}
    for block in kernel.blocks:
        for i in block:
            if i.name in ("ld", "st") and (
                ("v4" in i.opcode and i.opcode[-1][1:] == "32") or i.opcode[-2:] == ("v2", "f64")
            ):
                space = next((s for s in ("global", "shared") if s in i.opcode), "generic")
                counts[f"{i.name}.{space}"] = counts.get(f"{i.name}.{space}", 0) + 1
    return counts


def occupancy(device: Device, used: Resources, threads: int, dynamic_shared: int) -> float:
    """The share of a multiprocessor's threads that can be there at once."""
    warps = -(-threads // device.warp)
    a_warp = -(-used.registers * device.warp // 256) * 256
    by_registers = device.registers // a_warp // warps
    memory = used.shared + dynamic_shared
    memory = memory + 1024 if device.architecture >= 80 and memory else memory
    by_shared = device.shared_per_multiprocessor // memory if memory else 99
    by_threads = device.threads_per_multiprocessor // (warps * device.warp)
    blocks = min(by_registers, by_shared, by_threads, device.blocks_per_multiprocessor)
    return blocks * threads / device.threads_per_multiprocessor


@dataclass(frozen=True)
class Limit:
    """What kernels whose name has `pattern` may use. Of several that fit, the first counts."""

    pattern: str
    registers: int
    wide: tuple[tuple[str, int], ...] = ()  # at least so many accesses of 16 bytes
    spills: bool = False  # and stack


#: Of kernels in float none may spill or have a stack. A limit that is exceeded on purpose is changed here.
LIMITS = (
    Limit(r"guide_gradientsId", 96, spills=True),
    Limit(r"scattered_apply_34", 64, (("ld.global", 24),)),
    Limit(r"scattered_backward_34", 96, (("ld.global", 24), ("ld.shared", 4), ("st.shared", 8))),
    Limit(r"scattered_backward_few_34", 64, (("ld.global", 6), ("ld.shared", 4), ("st.shared", 2))),
    Limit(r"apply_34.*RgbCurves", 128, (("ld.global", 3), ("st.global", 3), ("ld.shared", 12))),
    Limit(r"apply_34", 104, (("ld.global", 3), ("st.global", 3), ("ld.shared", 12))),
    Limit(r"band_gradients.*ApplyWork", 168, (("ld.global", 3), ("st.global", 1), ("ld.shared", 4))),
    Limit(r"band_gradients", 168, (("ld.global", 3), ("ld.shared", 4))),
    Limit(r"rgb_guide_gradients.*Luma", 96, (("ld.global", 1), ("st.global", 3))),
    Limit(r"rgb_guide_gradients", 168, (("ld.global", 3), ("st.global", 3))),
    Limit(r"sum_footprintsIfdLb0", 96, (("ld.global", 4), ("st.global", 3))),
    Limit(r"slice_patches", 96, (("ld.shared", 4), ("st.global", 1))),
    Limit(r"splat_bands|sampled_applyId|sum_footprintsIdd", 128),
    Limit(r"", 96),
)


def limit_of(kernel: str) -> Limit:
    return next(limit for limit in LIMITS if re.search(limit.pattern, kernel))


def exceeded(name: str, used: Resources, kernel: Kernel) -> list[str]:
    """What a kernel uses beyond its limit, in words."""
    limit, wide = limit_of(name), wide_accesses(kernel)
    found = []
    if used.registers > limit.registers:
        found.append(f"{name}: {used.registers} registers, at most {limit.registers}")
    if not limit.spills and used.stack + used.spilled:
        found.append(f"{name}: {used.stack} bytes of stack, {used.spilled} spilled")
    if kernel.max_threads and used.registers * kernel.max_threads > DEVICES[90].registers:
        found.append(f"{name}: {used.registers} registers for {kernel.max_threads} threads never fit")
    for access, least in limit.wide:
        if wide.get(access, 0) < least:
            found.append(f"{name}: {wide.get(access, 0)} accesses {access} of 16 bytes, at least {least}")
    return found
