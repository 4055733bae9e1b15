"""Does `bilateral_ops.bench` call in turn, tell results apart, and take time where arrays are?"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pytest
from cases import ALL_F32, arguments

import bilateral_ops
from bilateral_ops import bench
from bilateral_ops.bench import _compare, _report
from bilateral_ops.reference import numpy as reference

ARRAYS = tuple(arguments("slice_apply", ALL_F32, H=5, W=6).values())


def compare(functions: Any, given: Any = ARRAYS, **options: Any) -> Any:
    return bench.compare(functions, given, seconds=1e-3, **options)


def test_rows_of_functions_and_their_gradients() -> None:
    heard: list[str] = []
    functions = {
        "ours": bilateral_ops.slice_apply,
        "reference": (reference.slice_apply, reference.slice_apply_vjp),
        "no gradient": lambda grid, guide, image: bilateral_ops.slice_apply(grid, guide, image),
    }
    report = compare(functions, gradients=True, progress=heard.append)
    forward = [(name, "forward") for name in functions]
    assert [(row.function, row.direction) for row in report.rows] == [
        *forward,
        *((n, "gradient") for n, _ in forward[:2]),
    ]
    assert heard == [f"{row.function}, {row.direction}" for row in report.rows]
    for row in report.rows:
        assert 0 < row.low <= row.seconds <= row.high
        assert row.bound > 0
        assert row.rounds >= 7
        assert row.difference < 1e-5
    inputs, output = sum(a.nbytes for a in ARRAYS), ARRAYS[2].nbytes
    for row, moved in ((report.rows[0], inputs + output), (report.rows[3], 2 * inputs + output)):
        assert row.gigabytes_per_second == pytest.approx(moved / row.seconds / 1e9)
    assert report.rows[0].first == 1
    assert report.facts["threads"] == bilateral_ops.get_num_threads()
    lines = str(report).splitlines()
    assert lines[0].split() == ["function", "ms", "quartiles", "GB/s", "×", "bound", "×", "first", "difference"]
    assert [line.split("  ")[0] for line in lines[4:]] == ["ours, gradient", "reference, gradient"]


def test_functions_are_called_in_turn() -> None:
    order: list[str] = []

    def noted(name: str) -> Any:
        def f(x: Any) -> Any:
            order.append(name)
            time.sleep(1e-3)  # so long that a sample is one call
            return x

        return f

    compare({name: noted(name) for name in "abc"}, (np.ones(3),))
    # Each is called for its results and, one after the other, for what it takes; then all in turn.
    assert order[:9] == [*"abc", *"aabbcc"]
    assert order[9:] == [*"abc"] * (len(order[9:]) // 3)
    assert len(order) >= 9 + 3 * 7


def test_a_slower_function_is_seen() -> None:
    def slow(x: Any) -> Any:
        time.sleep(2e-2)
        return x

    report = compare({"fast": np.copy, "slow": slow}, (np.ones(3),))
    assert report.rows[1].seconds >= 2e-2
    assert report.rows[1].first > 5
    assert report.rows[0].seconds < 1e-2


def test_differences_are_shares_of_the_first_ones_largest() -> None:
    def off(share: float) -> Any:
        return lambda x: {"a": x, "b": [x * (1 + share * (np.arange(x.size) == 2))]}

    x = np.array([1.0, 2, -4, 3])
    report = compare({"right": off(0), "same": off(0), "off": off(0.01), "nan": off(np.nan)}, {"x": x})
    found = [row.difference for row in report.rows]
    assert found[:2] == [0, 0]
    assert found[2] == pytest.approx(0.01)
    assert np.isnan(found[3])
    assert json.loads(report.to_json())["rows"][3]["difference"] is None
    wrong = (lambda x: x**2, lambda x, grad: 3 * x * grad)
    report = compare({"right": (wrong[0], lambda x, grad: 2 * x * grad), "wrong": wrong}, (x,), gradients=True)
    assert [row.difference for row in report.rows] == [0, 0, 0, pytest.approx(0.5)]


def test_json_and_plot(tmp_path: Any) -> None:
    report = compare({"ours": bilateral_ops.slice_apply}, gradients=True)
    report.save(tmp_path / "times.json")
    written = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert [row["seconds"] for row in written["rows"]] == [row.seconds for row in report.rows]
    assert written["version"] == bilateral_ops.__version__
    pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    report.plot(tmp_path / "times.png")
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    report = compare({"ours": bilateral_ops.slice_apply})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"bench.Report.plot needs Matplotlib.*pip install .\.\[bench\]"):
        report.plot("times.png")


def test_pytorch_by_autograd() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("bilateral_ops.frameworks.torch")
    tensors = tuple(torch.tensor(a) for a in ARRAYS)

    def composed(grid: Any, guide: Any, image: Any) -> Any:
        return bilateral_ops.apply(bilateral_ops.slice(grid, guide), image)

    def detached(grid: Any, guide: Any, image: Any) -> Any:
        return composed(grid, guide.detach(), image) + 0 * guide[..., None]

    report = compare(
        {"ours": bilateral_ops.slice_apply, "composed": composed, "detached": detached}, tensors, gradients=True
    )
    assert [row.difference < 1e-5 for row in report.rows] == [True] * 5 + [False]


def test_jax_waits_for_results() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    pytest.importorskip("bilateral_ops.frameworks.jax")
    arrays = tuple(map(jax.numpy.asarray, ARRAYS))
    functions = {"ours": jax.jit(bilateral_ops.slice_apply), "eager": bilateral_ops.slice_apply}
    report = compare(functions, arrays, gradients=True)
    assert [row.difference for row in report.rows] == [0] * 4
    host = _compare.host_of(arrays)
    waited: list[Any] = []
    host.module = type("Module", (), {"block_until_ready": staticmethod(waited.append)})
    host.elapsed(lambda: "result", 2)
    assert waited == ["result"] * 2


def test_sentences() -> None:
    with pytest.raises(ValueError, match="bench: functions must have at least one function, got none"):
        compare({})
    with pytest.raises(TypeError, match="bench: ours must be callable, got int"):
        compare({"ours": 3})
    with pytest.raises(TypeError, match="bench: arguments must be a tuple, a list or a mapping"):
        compare({"ours": np.sin}, np.ones(3))
    with pytest.raises(ValueError, match="bench: seconds must be positive, got 0"):
        bench.compare({"ours": np.sin}, (np.ones(3),), seconds=0)
    with pytest.raises(ValueError, match=r"bench: other must return the shapes \[\(3,\)\] of ours, got \[\(2,\)\]"):
        compare({"ours": np.sin, "other": lambda x: x[:2]}, (np.ones(3),))


# --- the command

MODULE = """
import numpy as np
from bilateral_ops.reference import numpy as reference

def slice(grid, guide):
    return np.asarray(reference.slice(grid, guide), np.float32)

def slice_vjp(grid, guide, grad):
    return reference.slice_vjp(grid, guide, grad)[:2]

def short(grid, guide):
    return guide

def broken(grid, guide):
    raise RuntimeError("no\\nkernel")

def of_tensors(grid, guide):
    import bilateral_ops
    return 2 * bilateral_ops.slice(grid, guide)
"""


def test_the_command_times_a_users_function(run: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    for module in ("numba", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "mine.py").write_text(MODULE)
    file, plot = tmp_path / "times.json", tmp_path / "times.svg"
    options = ("--gradients", "--size", "7x5", "--json", file, "--plot", plot)
    code, out, err = run("bench", f"{tmp_path}/mine.py:slice", *options)
    assert (code, err) == (0, "")
    assert out.startswith("slice, 7 × 5 pixels, ")
    written = json.loads(file.read_text())
    assert [(row["function"], row["direction"]) for row in written["rows"]] == [
        (name, direction)
        for direction in ("forward", "gradient")
        for name in ("bilateral_ops", f"{tmp_path}/mine.py:slice")
    ]
    assert all(row["difference"] < 1e-5 for row in written["rows"])
    assert (written["like"], written["arrays"], written["size"]) == ("slice", "numpy", "7x5")
    assert "svg" in plot.read_text()[:500]


def test_the_command_compares_with_peers_and_other_frameworks(run: Any, tmp_path: Any, monkeypatch: Any) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setitem(sys.modules, "numba", None)
    (tmp_path / "mine_too.py").write_text(MODULE)
    file = tmp_path / "times.json"
    name = f"{tmp_path}/mine_too.py:slice"
    code, _, err = run("bench", name, "--size", "7x5", "--json", file, "--gradients")
    assert (code, err) == (0, "")
    rows = json.loads(file.read_text())["rows"]
    assert [row["function"] for row in rows] == ["bilateral_ops", name, "PyTorch"] * 2
    assert all(row["difference"] < 1e-5 for row in rows)
    name = f"{tmp_path}/mine_too.py:of_tensors"
    options = ("--like", "slice", "--arrays", "torch", "--size", "7x5", "--json", file, "--gradients")
    assert run("bench", name, *options)[0] == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["difference"] for row in rows] == [0, 1, 0, 1]


SMALL = ("--size", "3x2")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("slice",), "the function must be named as module:function or file.py:function, got 'slice'."),
        (("no_such:f",), "no_such:f cannot be imported (ModuleNotFoundError: No module named 'no_such')."),
        (("FILE:f",), "FILE:f cannot be imported (AttributeError: module 'mine_wrong' has no attribute 'f')."),
        (
            ("FILE:short",),
            "--like must name an operation that FILE:short is like (slice, apply, slice_apply, guide_curves, guide_nn, "
            "guide_luma, splat, total_variation, resize_area, enhance), got None.",
        ),
        (("FILE:broken", "--like", "slice", *SMALL), "FILE:broken cannot be timed (RuntimeError: no kernel)."),
        (
            ("FILE:short", "--like", "slice", *SMALL),
            "FILE:short must return the shapes [(2, 3, 3, 4)] of bilateral_ops, got [(2, 3)].",
        ),
        (("FILE:slice", "--arrays", "cupy"), "cupy is not installed (pip install cupy)."),
        (
            ("FILE:slice", "--plot", "/no/x.png", *SMALL),
            "--plot must be a picture that can be written, got '/no/x.png'",
        ),
        (("--gradients",), "--gradients needs a FUNCTION."),
        (("--like", "slice"), "--like needs a FUNCTION."),
    ],
)
def test_the_command_says_what_is_wrong(
    run: Any, tmp_path: Any, monkeypatch: Any, options: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    (tmp_path / "mine_wrong.py").write_text(MODULE)
    file = f"{tmp_path}/mine_wrong.py"
    code, _, err = run("bench", *(option.replace("FILE", file) for option in options))
    assert code == 2
    assert err.startswith(f"bilateral-ops bench: {sentence.replace('FILE', file)}")
    assert err.count("\n") == 1


def test_a_nan_is_not_forgotten() -> None:
    found, first = [np.array([np.nan]), np.array([1.0])], [np.array([1.0]), np.array([1.1])]
    assert np.isnan(_report.difference(found, first))
    row = bench.Row("ours", "forward", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, float("inf"), 3)
    assert json.loads(bench.Report((row,), {}).to_json())["rows"][0]["difference"] is None
