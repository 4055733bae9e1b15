"""Does a call need no memory that grows with the image beside its inputs and outputs, and do huge images work?"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cases import ALL_F32, DIFFERENTIABLE, F16, F32, GUIDES, SANITIZED, U8, Dtypes, environment, python

READABLE = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
PLAIN = pytest.mark.skipif(SANITIZED, reason="AddressSanitizer's own memory grows")

#: Bytes beside inputs and outputs that a call on an image of SIZE pixels may take.
BOUND = 2 << 20
SIZE = (1000, 1001)  # 11 MiB in float32, 6 in float16, 3 in uint8: a copy of any is over the bound

#: Runs in a process of its own, and measures each call that it reads in a child process. The high-water mark before the
#: call is that of inputs and outputs, all of them touched and made without temporaries: what the call adds is its own.
_MEASURE = """
import json, os, signal, sys
import numpy as np
import bilateral_ops
from cases import *

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) << 10

def spread(array, height, width):
    "The array's first pixel at every pixel of a large image, in the chosen layout."
    full = (height, width, *array.shape[2:])
    if layout == "channels first":
        view = np.moveaxis(np.empty((*array.shape[2:], height, width), array.dtype), (-2, -1), (0, 1))
    elif layout == "interleaved":
        view = np.empty(full, array.dtype)
    elif layout == "flipped":
        view = np.empty(full, array.dtype)[::-1, ::-1]
    else:  # cropped
        view = np.empty((height + 3, width + 5, *array.shape[2:]), array.dtype)[2:-1, 2:-3]
    view[...] = array[:1, :1]
    return view

def call(height, width, measured):
    small = arguments(subject, dtypes, H=2, W=2, Gh=16, Gw=16, Gd=8, C=(3,))
    pixelwise = ("image", "guide", "coefficients", "values", "grad")
    grad = random_like(forward(bilateral_ops, subject, small).shape, F32 if dtypes.image.kind == "u" else dtypes.image)
    inputs = {**small, "grad": grad} if backwards else small
    spreads = {k for k in pixelwise if isinstance(inputs.get(k), np.ndarray)}
    spreads -= {"grad"} if subject == "resize_area" else set()
    large = {k: spread(v, height, width) if k in spreads else v for k, v in inputs.items()}
    if backwards:
        fields = OPERATIONS[subject].arguments
        out = {k: large[k] for k in fields if k in large and large[k].dtype.kind == "f"}
        out = {k: spread(v, height, width) if k in spreads else np.zeros_like(v) for k, v in out.items()}
    elif subject in ("splat", "resize_area"):
        out = forward(bilateral_ops, subject, small)
    else:
        out = spread(forward(bilateral_ops, subject, small), height, width)
    grad = large.pop("grad", None)
    before = peak()
    if planted:
        large["image"] = np.ascontiguousarray(large["image"])
    if backwards:
        backward(bilateral_ops, subject, large, grad, out=out)
    else:
        forward(bilateral_ops, subject, large, out=out)
    return peak() - before

bilateral_ops.set_num_threads(2)
for line in sys.stdin:
    subject, names, layout, backwards, planted, size = json.loads(line)
    dtypes = Dtypes(*map(np.dtype, names))
    if os.fork():
        _, status = os.wait()
        if status:
            print(json.dumps(f"the child ended with status {status}"), flush=True)
        continue
    signal.alarm(300)
    try:
        call(64, 96, False)  # starts the threads
        print(json.dumps(call(*size, True)), flush=True)
    except BaseException as error:
        print(json.dumps(repr(error)), flush=True)
    os._exit(0)
"""

FORWARD = ("apply", "slice_apply", "guide_curves", "resize_area", *GUIDES)
BACKWARD = tuple(name for name in DIFFERENTIABLE if name not in ("slice", "splat", "total_variation"))
DTYPES = (ALL_F32, Dtypes(F16, F32, F16), Dtypes(U8, F32, F32))
LAYOUTS = ("channels first", "flipped", "cropped")
CALLS = [
    *((subject, ALL_F32, False, "channels first") for subject in ("slice", "splat")),
    *(
        (subject, dtypes, backwards, layout)
        for backwards, subjects in ((False, FORWARD), (True, BACKWARD))
        for subject in subjects
        for i, dtypes in enumerate(DTYPES)
        for layout in (LAYOUTS if subject == "slice_apply" else LAYOUTS[i : i + 1])
    ),
]


@functools.cache
def _measurer() -> subprocess.Popen[str]:
    """The process that measures; it ends when its input does."""
    command, pipe = [sys.executable, "-c", _MEASURE], subprocess.PIPE
    return subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)


def added(
    subject: str,
    dtypes: Dtypes,
    layout: str,
    backwards: bool,
    planted: bool = False,
    size: tuple[int, int] = SIZE,
) -> int:
    """Bytes that a call on a large image adds to the peak of its process."""
    process = _measurer()
    assert process.stdin
    assert process.stdout
    print(json.dumps([subject, [dtype.name for dtype in dtypes], layout, backwards, planted, size]), file=process.stdin)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline() or '"the process ended"')
    assert isinstance(answer, int), answer
    return answer


@READABLE
@PLAIN
@pytest.mark.parametrize(
    ("subject", "dtypes", "backwards", "layout"),
    CALLS,
    ids=[f"{s}{'_vjp' * b}-{k}-{layout}" for s, k, b, layout in CALLS],
)
def test_no_copy_of_the_image_is_made(subject: str, dtypes: Dtypes, backwards: bool, layout: str) -> None:
    assert added(subject, dtypes, layout, backwards) < BOUND


@READABLE
@PLAIN
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "vjp"])
def test_a_planted_copy_would_be_seen(dtypes: Dtypes, backwards: bool) -> None:
    assert added("slice_apply", dtypes, "channels first", backwards, planted=True) > BOUND


_HUGE = """
import numpy as np
import bilateral_ops
h, w, c = 2050, 1024, 1024
image = np.zeros((h, w, c), np.uint8)  # pages that are only read cost nothing
assert image.size > 2**31
image[0, 0], image[-1, -1], image[-1, -1, -1] = 255, 51, 102
one = np.broadcast_to(np.float32(0.5), (h, w))
row = np.full((1, c), 1 / c, np.float32)
want = [255, 51]

def check(result):
    assert result.shape == (h, w, 1)
    assert [result[0, 0, 0], result[-1, -1, 0]] == want and np.count_nonzero(result) == 2, result[[0, -1], [0, -1]]
"""


@pytest.mark.skipif(sys.maxsize < 2**33, reason="needs 64-bit addresses")
@pytest.mark.parametrize(
    "code",
    [
        "check(bilateral_ops.apply(np.broadcast_to(row, (h, w, 1, c)), image))",
        "check(bilateral_ops.slice_apply(row[None, None, None], one, image))",
        """
grad = np.zeros((h, w, 1), np.float32)
grad[0, 0], grad[-1, -1] = 2, 5
got = bilateral_ops.slice_apply_vjp(row[None, None, None], one, image, grad, wrt=("grid",)).grid.reshape(-1)
np.testing.assert_allclose(got, [*[2 + 5 * 0.2] * (c - 1), 2 + 5 * 0.4], rtol=1e-6)
""",
    ],
    ids=["apply", "slice_apply", "slice_apply_vjp"],
)
def test_images_of_more_than_2_to_the_31_elements(code: str) -> None:
    finished = python(_HUGE + code, timeout=300)
    assert finished.returncode == 0, finished.stderr
