"""Does the interpreter compute what the instructions mean, and does it see every kind of mistake?"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from interpreter import (
    BadMask,
    BarrierError,
    Kernel,
    KernelError,
    Launch,
    Memory,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    Unsupported,
    UseAfterFree,
    machine,
    parse,
    run,
)
from interpreter.traffic import Traffic

FOLDER = Path(__file__).parent / "kernels"
N = 200
RNG = np.random.default_rng(7)


@functools.cache
def kernels(nvcc: str, source: str, architecture: int) -> dict[str, Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.ptx")
        subprocess.run(
            [nvcc, "-std=c++17", "-O3", f"-arch=compute_{architecture}", "-ptx", "-o", file, FOLDER / source],
            check=True,
        )
        return parse(file.read_text())


class Device:
    """Memory, and launches with arrays for parameters."""

    def __init__(self) -> None:
        self.memory = Memory(1 << 22)

    def put(self, array: Any) -> int:
        address = self.memory.allocate(array.nbytes)
        self.memory.view(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.memory.written(address, array.nbytes)
        return address

    def run(self, kernel: Kernel, parameters: Any, blocks: int = 7, threads: int = 32, **options: Any) -> Launch:
        packed = bytearray(kernel.parameter_bytes)
        for (offset, size), value in zip(kernel.parameters.values(), parameters, strict=True):
            bytes_ = value if isinstance(value, bytes) else int(value).to_bytes(size, "little")
            packed[offset : offset + size] = bytes_
        launch = Launch(kernel, (blocks, 1, 1), (threads, 1, 1), bytes(packed), **options)
        run(launch, self.memory)
        return launch

    def results(
        self, kernel: Kernel, inputs: list[Any], outputs: list[tuple[int, str]], n: int = N, **options: Any
    ) -> Any:
        """The outputs of a kernel(inputs…, outputs…, n), (elements per thread, dtype) each."""
        sizes = [n * each * np.dtype(dtype).itemsize for each, dtype in outputs]
        addresses = [self.memory.allocate(size) for size in sizes]
        self.run(kernel, [*map(self.put, inputs), *addresses, n], **options)
        for address, size in zip(addresses, sizes):
            assert self.memory.is_written(address, size)
        views = [self.memory.view(address, size) for address, size in zip(addresses, sizes)]
        return [view.view(dtype).reshape(n, each) for view, (each, dtype) in zip(views, outputs)]


def same(got: Any, want: Any) -> None:
    assert np.array_equal(got, want, equal_nan=True), np.argwhere(~((got == want) | (np.isnan(got) & np.isnan(want))))


# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[75, 80, 90, 100, 120])
def features(request: pytest.FixtureRequest, nvcc: str) -> dict[str, Kernel]:
    return kernels(nvcc, "features.cu", request.param)


def test_all_features_of_one_architecture_after_the_other(features: dict[str, Kernel]) -> None:
    """One test for all: to compile takes longer than to run."""
    device = Device()
    for name, check in globals().items():
        if name.startswith("check_"):
            check(device, features[name.removeprefix("check_")])


def check_floats(device: Device, kernel: Kernel) -> None:
    a, b, c = RNG.standard_normal((3, N)).astype("f4") * np.float32(3)
    a[:4], b[:4] = [np.nan, 1, np.inf, -0.0], [1, np.nan, 2, 0]
    (got,) = device.results(kernel, [a, b, c], [(16, "f4")])
    with np.errstate(all="ignore"):
        exact = a.astype("f8") * b + c  # products of floats are exact in double
        down = a.astype("f8") + b
        lower = down.astype("f4")
        lower = np.where(lower > down, np.nextafter(lower, np.float32(-np.inf)), lower)
        want = [
            exact.astype("f4"), a * b, a / b, np.sqrt(np.abs(a)), np.fmin(a, b), np.fmax(a, c), np.floor(a), np.rint(b),
            np.trunc(c), np.ceil(a), np.copysign(a, b), lower, -a, 1 / b, np.where(a < b, a, c), np.where(a != b, c, a),
        ]  # fmt: skip
    same(got, np.stack(want, 1))


def check_doubles(device: Device, kernel: Kernel) -> None:
    a, b, c = RNG.standard_normal((3, N)) * 5
    c[:50] = -(a[:50] * b[:50])  # what is left is the product's rounding error
    (got,) = device.results(kernel, [a, b, c], [(6, "f8")])
    from fractions import Fraction

    fused = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c)]
    want = [
        np.array(fused), a / b, np.sqrt(np.abs(a)), np.fmin(a, b) + c, np.floor(a) - np.rint(b),
        a.astype("f4").astype("f8") + np.trunc(b),
    ]  # fmt: skip
    same(got, np.stack(want, 1))


def check_integers(device: Device, kernel: Kernel) -> None:
    a, b = (RNG.integers(-(2**63), 2**63, N) >> RNG.integers(0, 62, N) for _ in range(2))
    b[b == 0] = 3
    (got,) = device.results(kernel, [a, b], [(20, "i8")])

    def signed(value: int, bits: int) -> int:
        value &= 2**bits - 1
        return value - 2**bits if value >> (bits - 1) else value

    def quotient(x: int, y: int) -> int:
        return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)

    for row, x, y in zip(got.tolist(), a.tolist(), b.tolist()):
        p, q, u, v = signed(x, 32), signed(y, 32), x % 2**32, y % 2**32
        both = (v << 32 | u).to_bytes(8, "little")
        want = [
            quotient(x, y), x - quotient(x, y) * y, signed(x % 2**64 // (y % 2**64), 64), x * y >> 64,
            signed(x % 2**64 * (y % 2**64) >> 64, 64), p * q >> 32, signed(u * v, 64), signed(x << (y & 63), 64),
            x >> (y & 63), signed(quotient(p, q | 1), 32), 64 - (x % 2**64).bit_length(), (y % 2**64).bit_count(),
            int(f"{u:032b}"[::-1], 2), int.from_bytes(bytes(both[i] for i in (0, 5, 2, 7)), "little"),
            ((v << 32 | u) << 13 >> 32) % 2**32, x - quotient(x, 17) * 17, min(p, q), x % 2**64 % 1000003,
            (q & -q).bit_length() if q else 0, u >> 5 & 0x7FF,
        ]  # fmt: skip
        assert row == want


def check_halves(device: Device, kernel: Kernel) -> None:
    a = np.concatenate([RNG.standard_normal(N - 8) * 10.0 ** RNG.integers(-8, 6, N - 8), [np.inf, -np.inf, 0, -0.0, 1e-8, 65520, 65519, 3e38]]).astype("f4")  # fmt: skip # noqa: E501
    got, bits = device.results(kernel, [a], [(2, "f4"), (2, "u2")])
    with np.errstate(over="ignore"):
        half, brain = a.astype("f2"), a.astype(ml_dtypes.bfloat16)
    same(got, np.stack([half.astype("f4"), brain.astype("f4")], 1))
    assert np.array_equal(bits, np.stack([half.view("u2"), brain.view("u2")], 1))


def check_to_integers(device: Device, kernel: Kernel) -> None:
    a = np.concatenate([RNG.standard_normal(N - 6) * 1e3, [np.nan, np.inf, -np.inf, 3e9, -3e9, 2.5]]).astype("f4")
    (got,) = device.results(kernel, [a], [(4, "i4")])
    finite = np.nan_to_num(a.astype("f8"), nan=0.0)
    limits = -(2.0**31), 2.0**31 - 1
    want = [
        np.clip(np.rint(finite), *limits).astype("i4"),
        np.clip(np.trunc(finite), *limits).astype("i4"),
        np.clip(np.floor(finite), 0, 2.0**32 - 1).astype("u4").view("i4"),
        (np.clip(finite, 0, 1).astype("f4") * np.float32(255)).astype("i4"),
    ]
    assert np.array_equal(got, np.stack(want, 1))


def check_approximations(device: Device, kernel: Kernel) -> None:
    """Near, and not exact: an instruction that is approximate on hardware is here, too."""
    a = RNG.uniform(-8, 8, N).astype("f4")
    (got,) = device.results(kernel, [a], [(5, "f4")])
    x = a.astype("f8")
    want = np.stack([np.exp(x), np.exp(x), 1 / np.sqrt(np.abs(x)), np.tanh(x), np.log(np.abs(x))], 1)
    assert np.allclose(got, want, rtol=2e-6, atol=1e-6)
    assert (got[:, 1] != want[:, 1].astype("f4")).any()


def check_lanes(device: Device, kernel: Kernel) -> None:
    a = RNG.integers(0, 100, 224).astype("i4")
    (got,) = device.results(kernel, [a], [(8, "i4")], n=224)
    w, lane = a.reshape(-1, 32), np.arange(32)
    ballot = np.packbits(w & 1, axis=1, bitorder="little").view("i4")
    want = [
        w[:, np.where(lane >= 3, lane - 3, lane)], w[:, np.where(lane + 5 < 32, lane + 5, lane)], w[:, lane ^ 9],
        np.take_along_axis(w, w & 31, 1), w[:, np.where(lane % 8 + 2 < 8, lane + 2, lane)], ballot + 0 * w,
        (w > 90).any(1, keepdims=True) + 0 * w, (w >= 0).all(1, keepdims=True) + 0 * w,
    ]  # fmt: skip
    assert np.array_equal(got, np.stack(want, -1).reshape(224, 8))


def check_matches(device: Device, kernel: Kernel) -> None:
    a, b = RNG.integers(0, 100, 224).astype("i4"), RNG.integers(0, 9, 224) << 40
    (got,) = device.results(kernel, [a, b], [(3, "i4")], n=224)
    w, long = a.reshape(-1, 32), b.reshape(-1, 32)

    def matched(values: Any) -> Any:
        same = values[:, :, None] == values[:, None, :]
        return (same << np.arange(values.shape[1], dtype=np.int64)).sum(-1).astype("u4").view("i4")

    lower = np.concatenate([matched(w[:, :16] & 7), np.zeros((7, 16), "i4")], 1)
    assert np.array_equal(got, np.stack([matched(w & 3), matched(long), lower], -1).reshape(224, 3))


def check_half_warps(device: Device, kernel: Kernel) -> None:
    a = RNG.integers(0, 100, 224).astype("i4")
    (got,) = device.results(kernel, [a], [(1, "i4")], n=224)
    w = a.reshape(-1, 2, 16)
    want = np.stack([w[:, 0].sum(1)[:, None] + 0 * w[:, 0], w[:, 1].max(1)[:, None] + 0 * w[:, 1]], 1)
    assert np.array_equal(got.reshape(-1, 2, 16), want)


def check_block_sum(device: Device, kernel: Kernel) -> None:
    a = RNG.integers(-50, 50, 5000).astype("f4")
    out = device.memory.allocate(4 * 5)
    device.run(kernel, [device.put(a), out, len(a)], 5, 128, dynamic_shared=512, together=2, seed=3)
    thread = np.arange(len(a)) // 128 % 5
    assert np.array_equal(device.memory.view(out, 20).view("f4"), [a[thread == i].sum() for i in range(5)])


def check_histogram(device: Device, kernel: Kernel) -> None:
    a = RNG.integers(0, 1000, N).astype("i4")
    counts, total = device.put(np.zeros(17, "i4")), device.put(np.zeros(1, "f4"))
    device.run(kernel, [device.put(a), counts, total, N])
    got = device.memory.view(counts, 68).view("i4")
    assert np.array_equal(got[:16], np.bincount(a & 15, minlength=16))
    assert got[16] == a.max()
    assert device.memory.view(total, 4).view("f4")[0] == N / 4


def check_turns(device: Device, kernel: Kernel) -> None:
    """Every thread that adds sees another of the values that there are in turn."""
    a, start = RNG.integers(0, 1000, N).astype("i4"), np.arange(16, dtype="i4")
    counts, seen = device.put(start), device.memory.allocate(4 * N)
    device.run(kernel, [device.put(a), counts, seen, N], together=3, seed=1)
    after, got = device.memory.view(counts, 64).view("i4"), device.memory.view(seen, 4 * N).view("i4")
    assert np.array_equal(after, start + 3 * np.bincount(a & 15, minlength=16))
    for k in range(16):
        assert np.array_equal(np.sort(got[a & 15 == k]), np.arange(k, after[k], 3))


def check_vectors(device: Device, kernel: Kernel) -> None:
    a, b = RNG.standard_normal((N, 4)).astype("f4"), RNG.integers(0, 256, (N, 4)).astype("u1")
    got, swapped = device.results(kernel, [a, b], [(2, "f8"), (4, "u1")])
    same(got, np.stack([a[:, 0] + a[:, 1], a[:, 2] * a[:, 3]], 1).astype("f8"))
    assert np.array_equal(swapped, b[:, ::-1])


def check_indexed(device: Device, kernel: Kernel) -> None:
    a = RNG.integers(0, 100, N).astype("i4")
    (got,) = device.results(kernel, [a], [(1, "i4")])
    table = a[(np.arange(N)[:, None] + np.arange(8)) % N] * np.arange(8)
    assert np.array_equal(got[:, 0], np.take_along_axis(table, (a[:, None] + np.arange(4)) & 7, 1).sum(1))


def check_paths(device: Device, kernel: Kernel) -> None:
    a = np.arange(1, N + 1).astype("i4")
    values = np.array([N, 10, 20, 30, 40, 50, 60], "i4")
    out = device.memory.allocate(4 * N)
    device.run(kernel, [device.put(a), out, values.tobytes()])
    want = []
    for start in a.tolist():
        v, steps = start, 0
        while v != 1 and steps < 200:
            v, steps = 3 * v + 1 if v % 2 else v // 2, steps + 1
        primes = (2, 3, 5, 7, 11, 13, 17, 19)
        results = (primes[steps & 7], steps * 3, steps - 100, steps ^ 0x55, int(values[1 + steps % 6]), -steps)
        want.append(results[start % 7] if start % 7 < 6 else 1000 + steps)
    assert device.memory.view(out, 4 * N).view("i4").tolist() == want


def test_every_feature_is_checked(nvcc: str) -> None:
    assert {f"check_{name}" for name in kernels(nvcc, "features.cu", 75)} == {n for n in globals() if n[:6] == "check_"}


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes
# ---------------------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, type[KernelError] | None] = {
    "beyond_the_end": OutOfBounds,
    "before_the_start": OutOfBounds,
    "reads_what_nobody_wrote": Uninitialised,
    "misaligned": Misaligned,
    "shared_beyond_the_end": OutOfBounds,
    "dynamic_beyond_the_end": OutOfBounds,
    "shared_not_written": Uninitialised,
    "no_barrier": Race,
    "with_barrier": None,
    "no_second_barrier": Race,
    "no_warp_barrier": Race,
    "with_warp_barrier": None,
    "sum_without_atomics": Race,
    "sum_between_blocks": Race,
    "sum_with_atomics": None,
    "maximum_seen_early": None,
    "maximum_read_beside": Race,
    "store_seen_early": Race,
    "neighbours_in_one_block": None,
    "neighbours_without_barrier": Race,
    "divergent_barrier": BarrierError,
    "barrier_after_exit": BarrierError,
    "mask_of_all_in_a_branch": BadMask,
    "own_lane_not_in_mask": BadMask,
    "shuffle_from_outside": BadMask,
    "endless": KernelError,
    "traps": KernelError,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, nvcc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOST_STEPS", 2000)
    kernel, device, expected = kernels(nvcc, "mistakes.cu", 75)[name], Device(), MISTAKES[name]
    written = name.startswith(("sum_with", "maximum_"))
    shared = 4 * 63 if name.startswith("dynamic") else 0
    for options in ({}, {"together": 1, "seed": 1}):
        out = device.put(np.zeros(128, "f4")) if written else device.memory.allocate(512)
        if expected is None:
            device.run(kernel, [out], 2, 64, **options)
            continue
        with pytest.raises(expected) as raised:
            device.run(kernel, [out], 2, 64, dynamic_shared=shared, **options)
        assert raised.type is expected
        assert name in str(raised.value)


def test_every_mistake_is_made(nvcc: str) -> None:
    assert set(kernels(nvcc, "mistakes.cu", 75)) == set(MISTAKES)


def test_an_odd_block_has_no_lanes_beyond_its_end(nvcc: str) -> None:
    """A mask of 32 lanes is wrong for the last warp of 48 threads."""
    kernel, device = kernels(nvcc, "features.cu", 75)["lanes"], Device()
    with pytest.raises(BadMask):
        device.run(kernel, [device.put(np.zeros(48, "i4")), device.memory.allocate(48 * 32), 48], 1, 48)


def test_memory_that_was_given_back(nvcc: str) -> None:
    device, kernel = Device(), kernels(nvcc, "mistakes.cu", 75)["with_barrier"]
    address = device.memory.allocate(512)
    device.memory.free(address)
    with pytest.raises(UseAfterFree):
        device.run(kernel, [address], 2, 64)
    with pytest.raises(KernelError):
        device.memory.free(address)


def test_what_is_not_known_is_an_error() -> None:
    text = ".target sm_90\n.visible .entry k()\n{\n.reg .b32 %r<3>;\nmov.b32 %r1, 0;\nfrobnicate.b32 %r2, %r1;\nret;\n}"
    for unknown in (text, text.replace("frobnicate", "add.ftz"), text.replace("%r1;", "%nonsense;")):
        with pytest.raises(Unsupported):
            run(Launch(parse(unknown)["k"], (1, 1, 1), (32, 1, 1), b""), Memory(1 << 16))


def test_instructions_of_warps_that_are_partly_elsewhere() -> None:
    text = """.target sm_75
.visible .entry k()
{
.reg .b32 %r<2>;
.reg .pred %p<2>;
mov.u32 %r1, %tid.x;
setp.lt.u32 %p1, %r1, 40;
@%p1 bra next;
add.s32 %r1, %r1, 1;
next:
ret;
}"""
    launch = Device().run(parse(text)["k"], [], 2, 48)
    # In each of two blocks both warps run four of them, and the second one the sum.
    assert launch.instructions == 2 * (4 + 5)


def test_traffic(nvcc: str) -> None:
    """A copy of float4: two loads and two stores of a warp, 16 and 4 sectors. A stride of 32 words: one bank."""
    device = Device()
    kernel, traffic = kernels(nvcc, "features.cu", 75)["vectors"], Traffic()
    outputs = [device.memory.allocate(64 * 16), device.memory.allocate(64 * 4)]
    inputs = [device.put(np.zeros((64, 4), dtype)) for dtype in ("f4", "u1")]
    device.run(kernel, [*inputs, *outputs, 64], 2, traffic=traffic)
    loads, stores = traffic["global", "load"], traffic["global", "store"]
    assert (loads.requests, loads.bytes, loads.units) == (4, 64 * 20, 2 * 16 + 2 * 4)
    assert (stores.requests, stores.bytes, stores.units) == (4, 64 * 20, 2 * 16 + 2 * 4)

    text = """.target sm_75
.visible .entry k(.param .u32 step)
{
.reg .b32 %r<5>;
.shared .align 16 .b8 s[65536];
ld.param.u32 %r1, [step];
mov.u32 %r2, %tid.x;
mul.lo.s32 %r3, %r2, %r1;
mov.u32 %r4, s;
add.s32 %r3, %r3, %r4;
st.shared.u32 [%r3], %r2;
ret;
}"""
    for step, wavefronts in ((4, 1), (8, 2), (128, 32), (132, 1)):
        traffic = Traffic()
        device.run(parse(text)["k"], [step], 1, traffic=traffic)
        assert traffic["shared", "store"].units == wavefronts, step
    wide = text.replace("st.shared.u32 [%r3], %r2", "st.shared.v4.u32 [%r3], {%r2, %r2, %r2, %r2}")
    for step, wavefronts in ((16, 4), (48, 4), (512, 32)):
        traffic = Traffic()
        device.run(parse(wide)["k"], [step], 1, traffic=traffic)
        assert traffic["shared", "store"].units == wavefronts, step
