"""Does `bilateral_ops.bench` call in turn, tell results apart, and take time where arrays are?"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import ALL_F32, arguments

import bilateral_ops
from bilateral_ops import bench
from bilateral_ops._core.missing import install
from bilateral_ops.bench import _compare, _hosts, _results
from bilateral_ops.cli import bench as cli_bench
from bilateral_ops.reference import numpy as reference

ARRAYS = tuple(arguments("slice_apply", ALL_F32, H=5, W=6).values())


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what most tests look at: as few rounds of each as there may be."""
    monkeypatch.setattr(cli_bench, "SECONDS", 1e-3)


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
    assert [line.split("  ")[0] for line in lines[4:6]] == ["ours, gradient", "reference, gradient"]
    assert lines[6:] == list(report.notes) == [f"no gradient of no gradient: {_hosts.PAIR}."]


def test_functions_are_called_in_turn() -> None:
    order: list[str] = []

    def noted(name: str) -> Any:
        def f(x: Any) -> Any:
            order.append(name)
            time.sleep(3e-3)  # so long that a sample is one call, as is what tells that
            return x

        return f

    compare({name: noted(name) for name in "abc"}, (np.ones(3),))
    # Each is called for its results and for what it takes; then all in turn, in every order.
    assert order[:6] == [*"abcabc"]
    rounds = ["".join(order[k : k + 3]) for k in range(6, len(order), 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(rounds) >= 7
    assert {each[0] for each in rounds} == {each[-1] for each in rounds} == {*"abc"}


def test_a_name_is_any_string() -> None:
    names = ["", "x\0", "x"]
    report = compare(dict.fromkeys(names, np.copy), (np.ones(3),))
    assert [row.function for row in report.rows] == names


def test_what_is_short_is_called_several_times_whatever_its_first_call_takes() -> None:
    taken: list[tuple[str, int]] = []

    class Clock(_hosts.Host):
        def elapsed(self, function: Any, calls: int) -> float:
            taken.append((function(), calls))
            return 1e-3 if len(taken) == 1 else calls * 1e-5

    clock = Clock()
    times = _compare.rounds([(lambda: "a", clock), (lambda: "b", clock)], 1e-9)
    assert times == [[pytest.approx(1e-5)] * 7] * 2
    assert sorted(taken[12:]) == [("a", 20)] * 7 + [("b", 20)] * 7


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
    assert [row.differing for row in report.rows] == [0, 0, 1 / 4, 1]
    assert json.loads(report.to_json())["rows"][3]["difference"] is None
    wrong = (lambda x: x**2, lambda x, grad: 3 * x * grad)
    report = compare({"right": (wrong[0], lambda x, grad: 2 * x * grad), "wrong": wrong}, (x,), gradients=True)
    assert [row.difference for row in report.rows] == [0, 0, 0, pytest.approx(0.5)]
    assert str(report).splitlines()[5:] == ["wrong, gradient: 100 % of an array's elements differ from those of right."]


def test_json_and_plot(tmp_path: Any) -> None:
    report = compare({"ours": bilateral_ops.slice_apply}, gradients=True)
    report.save(tmp_path / "times.json")
    written = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert [row["seconds"] for row in written["rows"]] == [row.seconds for row in report.rows]
    assert written["version"] == bilateral_ops.__version__
    pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    report.plot(tmp_path / "times.png")
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_drawn_as_they_are(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text
    names = ["$a$", r"$\bad$", r"\$"]
    compare(dict.fromkeys(names, np.copy), (np.ones(3),)).plot(tmp_path / "times.svg")
    drawn = re.findall(r"<text [^>]*>(.*)</text>", (tmp_path / "times.svg").read_text(encoding="utf-8"))
    assert [text for text in drawn if "$" in text] == names


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
    assert [row.differing > 0 for row in report.rows] == [False] * 5 + [True]


def test_gradients_given_for_each_other_are_seen() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Turned(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return 2 * x, 2 * y

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            return 2 * b, 2 * a

    functions = {"right": lambda x, y: (2 * x, 2 * y), "turned": Turned.apply}
    rows = compare(functions, (torch.ones(3), torch.ones(3)), gradients=True).rows
    assert [row.differing for row in rows] == [0, 0, 0, 1]


def test_jax_waits_for_results() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    pytest.importorskip("bilateral_ops.frameworks.jax")
    arrays = tuple(map(jax.numpy.asarray, ARRAYS))
    functions = {"ours": jax.jit(bilateral_ops.slice_apply), "eager": bilateral_ops.slice_apply}
    report = compare(functions, arrays, gradients=True)
    assert [row.difference for row in report.rows] == [0] * 4
    host = _hosts.host_of(arrays)
    waited: list[Any] = []
    host.module = type("Module", (), {"block_until_ready": staticmethod(waited.append)})
    host.elapsed(lambda: "result", 2)
    assert waited == ["result"] * 2


def test_a_function_that_makes_arrays_of_jax_of_others_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    waited: list[Any] = []
    monkeypatch.setattr(jax, "block_until_ready", lambda value: waited.append(value) or value)
    compare({"numpy": np.sin, "jax": jax.jit(jax.numpy.sin)}, (np.ones(3, np.float32),))
    assert len(waited) > 7
    assert all(isinstance(value, jax.Array) for value in waited)


class Events:
    """PyTorch's module for a CUDA device, as far as time is taken there."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cuda = self

    def Event(self, enable_timing: bool) -> Any:
        assert enable_timing
        return self

    def device(self, place: Any) -> Any:
        return contextlib.nullcontext(self.seen.append(f"device {place.index}"))

    def record(self) -> None:
        self.seen.append("record")

    def synchronize(self) -> None:
        self.seen.append("synchronize")

    def elapsed_time(self, end: Any) -> float:
        assert end is self
        return 4.0  # milliseconds


def test_time_on_a_cuda_device_is_between_two_events() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    host: Any = _hosts.host_of([torch.ones(2)])
    host.place, host.on_device, host.module = torch.device("cuda", 1), True, Events()
    assert host.elapsed(lambda: host.module.seen.append("call"), 2) == 4e-3
    assert host.module.seen == ["device 1", "record", "call", "call", "record", "synchronize"]


def test_the_host_is_that_of_arrays_on_a_device_where_some_are() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert type(_hosts.host_of([])) is type(_hosts.host_of([np.ones(2), 3, None])) is _hosts.Host
    assert isinstance(_hosts.host_of([np.ones(2), torch.ones(2)]), _hosts._Torch)

    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 0)

    there = torch.ones(2).as_subclass(OnDevice)
    assert _hosts.host_of([torch.ones(2), there, torch.ones(2)]).on_device
    with pytest.raises(ValueError, match="bench: tensors must be on the CPU or on a CUDA device, got meta"):
        _hosts.host_of([torch.ones(2, device="meta")])


# --- gradients that there are, and why there are none


def test_gradients_of_integer_images_and_of_functions_with_out() -> None:
    grid, guide, image = ARRAYS
    image = (255 * image.clip(0, 1)).astype(np.uint8)
    functions = {
        "ours": bilateral_ops.slice_apply,
        "into": partial(bilateral_ops.slice_apply, out=np.empty_like(image)),
        "reference": (reference.slice_apply, reference.slice_apply_vjp),
    }
    report = compare(functions, (grid, guide, image), gradients=True)
    assert [row.direction for row in report.rows] == ["forward"] * 3 + ["gradient"] * 3
    assert not any(row.differing for row in report.rows)
    assert report.notes == ()


def test_signatures_are_not_asked_in_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ask = inspect.Signature.bind
    monkeypatch.setattr(inspect.Signature, "bind", lambda *args, **kw: asked.append(args[0]) or ask(*args, **kw))
    report = compare({"ours": bilateral_ops.slice_apply}, gradients=True)
    assert report.rows[1].rounds >= 7
    assert len(asked) == 2  # for the check of the arguments, and for the VJP


def test_functions_without_a_gradient_are_named_with_the_remedy() -> None:
    grid, _, image = ARRAYS
    report = compare({"ours": bilateral_ops.enhance}, (grid, bilateral_ops.LumaGuide(), image), gradients=True)
    assert report.notes == (f"no gradient of ours: {_hosts.PAIR}.",)
    assert [row.direction for row in report.rows] == ["forward"]
    assert json.loads(report.to_json())["notes"] == list(report.notes)


def test_functions_of_tensors_without_a_gradient_are_named() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = tuple(torch.tensor(a) for a in ARRAYS)

    def failing(grid: Any, guide: Any, image: Any) -> Any:
        if grid.requires_grad:
            raise RuntimeError("not while\nrecording.")
        return image

    functions = {
        "double": lambda grid, guide, image: 2 * image,
        "unrecorded": torch.no_grad()(lambda grid, guide, image: 2 * image),
        "detached": lambda grid, guide, image: 2 * image.detach(),
        "numpy": lambda grid, guide, image: 2 * image.detach().numpy(),
        "integers": lambda grid, guide, image: (2 * image).int(),
        "failing": failing,
    }
    report = compare(functions, tensors, gradients=True)
    assert [row.function for row in report.rows] == [*functions, "double"]
    nothing = "autograd recorded nothing on the way to its result"
    said = [nothing] * 4 + ["RuntimeError: not while recording."]
    assert all(
        note.startswith(f"no gradient of {name}: {why}")
        for name, note, why in zip([*functions][1:], report.notes, said)
    )
    assert len(report.notes) == 5
    report = compare({"double": lambda x: 2 * x}, (torch.arange(3),), gradients=True)
    assert report.notes == ("no gradient of double: none of the arguments is a tensor of floats.",)
    report = compare({"complex": lambda x: x * 1j}, (torch.ones(3),), gradients=True)
    assert [row.direction for row in report.rows] == ["forward", "gradient"]


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_gradients_are_recorded_where_the_caller_wants_none(mode: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with getattr(torch, mode)():
        report = compare({"double": lambda x: 2 * x}, (torch.ones(3),), gradients=True)
    assert [row.direction for row in report.rows] == ["forward", "gradient"]


def test_functions_of_jax_without_a_gradient_are_named() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    functions = {
        "both": lambda x: (x.astype(int), 2 * x),
        "integers": lambda x: (x.astype(int), x.astype(int)),
        "numpy": lambda x: (np.asarray(x).astype(int), 2 * np.asarray(x)),
    }
    report = compare(functions, (jax.numpy.ones(3),), gradients=True)
    assert [row.function for row in report.rows] == [*functions, "both"]
    assert report.notes[0] == f"no gradient of integers: none of its results is an array of floats; {_hosts.PAIR}."
    assert report.notes[1].startswith("no gradient of numpy: TracerArrayConversionError: ")


# --- results


class Named(NamedTuple):
    a: Any
    b: Any


def test_results_are_compared_by_name() -> None:
    x, y = np.arange(3.0), np.arange(3.0) + 5
    functions = {
        "first": lambda x, y: {"a": x, "b": y},
        "turned": lambda x, y: {"b": y, "a": x},
        "named": lambda x, y: Named(x, y),
        "plain": lambda x, y: (x, y),
        "wrong": lambda x, y: {"b": x, "a": y},
    }
    report = compare(functions, (x, y))
    assert [row.differing > 0 for row in report.rows] == [False] * 4 + [True]
    within = {name: lambda x, y, f=f: [y, {"c": f(x, y), "d": x}] for name, f in functions.items()}
    assert [row.differing > 0 for row in compare(within, (x, y)).rows] == [False] * 4 + [True]
    with pytest.raises(ValueError, match=r"short must return the shapes .*, got the shapes \[\(3,\), \(3,\)\]"):
        compare({"first": lambda x, y: ([x, y], y), "short": lambda x, y: ([x], y)}, (x, y))


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_gradients_are_of_results_by_name(framework: str) -> None:
    module = pytest.importorskip(framework, reason=f"{framework} is not installed")
    ones = module.ones(3) if framework == "torch" else module.numpy.ones(3)
    functions = {
        "first": lambda x, y: {"a": 2 * x, "b": 3 * y},
        "turned": lambda x, y: {"b": 3 * y, "a": 2 * x},
        "named": lambda x, y: Named(2 * x, 3 * y),
        "plain": lambda x, y: (2 * x, 3 * y),
        "part": lambda x, y: {"b": 3 * y},
        "more": lambda x, y: {"c": None, "b": 3 * y, "a": 2 * x},
    }
    report = compare(functions, (ones, ones), gradients=True)
    assert [(row.function, row.differing) for row in report.rows[6:]] == [
        (name, 0) for name in functions if name != "part"
    ]
    assert report.notes == ("no gradient of part: it returns only a part of what the first function returns.",)
    functions = {"none": lambda x, y: (None, 2 * x), "some": lambda x, y: (y, 2 * x)}
    rows = compare(functions, (ones, ones), gradients=True).rows
    assert [row.differing for row in rows[2:]] == [0, 0]


def test_a_vjp_is_given_the_gradient_in_its_functions_container() -> None:
    functions = {
        "dict": (
            lambda x, y: {"b": x, "a": [y, 2 * y]},
            lambda x, y, grad: (grad["b"], grad["a"][0] + 2 * grad["a"][1]),
        ),
        "named": (lambda x, y: Named((y, 2 * y), x), lambda x, y, grad: (grad.b, grad.a[0] + 2 * grad.a[1])),
        "part": (lambda x, y: {"a": [y, 2 * y]}, lambda x, y, grad: (0 * x, grad["a"][0] + 2 * grad["a"][1])),
    }
    report = compare(functions, (np.ones(3), np.full(3, 2.0)), gradients=True)
    assert [(row.function, row.differing) for row in report.rows[3:]] == [("dict", 0), ("named", 0)]
    assert report.notes == ("no gradient of part: it returns only a part of what the first function returns.",)


def test_results_are_copied_before_the_next_function_writes_over_them() -> None:
    out = np.empty(3)
    functions = {"one": partial(np.add, 1, out=out), "two": partial(np.add, 2, out=out)}
    assert [row.differing for row in compare(functions, (np.ones(3),)).rows] == [0, 1]
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    there = torch.empty(3, dtype=torch.float64)
    functions = {"one": partial(torch.add, 1, out=there), "two": partial(torch.add, 2, out=there)}
    assert [row.differing for row in compare(functions, (torch.ones(3, dtype=torch.float64),)).rows] == [0, 1]


@pytest.mark.parametrize(
    ("dtype", "off", "differs"),
    [
        ("float64", 1e-9, False),
        ("float64", 1e-7, True),
        ("float32", 1e-4, False),
        ("float32", 1e-3, True),
        ("float16", 1e-2, False),
        ("float16", 1e-1, True),
        ("complex128", 1e-7j, True),
        ("uint8", 1, False),
        ("uint8", 2, True),
        ("int64", 1, True),
        ("bool", True, True),
    ],
)
def test_what_differs_by_more_than_rounding(dtype: str, off: complex, differs: bool) -> None:
    x = np.zeros(4, dtype) if dtype == "bool" else np.array([1, 1, 0, 1], dtype)
    (_, row) = compare({"right": np.copy, "off": lambda x: (x + np.array([0, 0, off, 0])).astype(dtype)}, (x,)).rows
    assert row.differing == (0.25 if differs else 0)
    assert row.difference == pytest.approx(abs(off) if dtype != "bool" else np.inf, rel=0.1)


def test_integers_differ_whatever_their_size() -> None:
    def given(*numbers: int, dtype: str = "int64") -> Any:
        return lambda: np.array(numbers, dtype)

    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    functions = {"first": given(2**53, least), "one off": given(2**53 + 1, least), "far": given(2**53, most)}
    rows = compare(functions, ()).rows
    assert [row.differing for row in rows] == [0, 1 / 2, 1 / 2]
    assert [row.difference for row in rows] == [0, 2.0**-63, pytest.approx(2)]
    unsigned = {name: given(2**63 + off, dtype="uint64") for name, off in {"first": 0, "one": 1, "two": 2}.items()}
    assert [row.differing for row in compare(unsigned, ()).rows] == [0, 0, 1]


def test_nans_at_the_same_places_are_no_difference() -> None:
    x, y = np.array([np.nan, 1, np.inf]), np.array([np.nan, np.nan, np.inf])
    report = compare({"first": lambda: x, "same": lambda: x + 0, "more": lambda: y, "less": lambda: x[[2, 1, 2]]}, ())
    assert [row.differing for row in report.rows] == [0, 0, 1 / 3, 1 / 3]
    assert [bool(np.isnan(row.difference)) for row in report.rows] == [False, False, True, True]
    assert "differ from those of first" not in str(compare({"first": lambda: x, "same": lambda: x + 0}, ()))


def test_a_gradient_that_is_not_there_is_zero() -> None:
    def of(*gradients: Any) -> Any:
        return (lambda x, y: x * y, lambda x, y, grad: gradients)

    x, y, zero = np.ones(3), np.full(3, 2.0), np.zeros(3)
    report = compare({"first": of(x, None), "zero": of(x, zero), "some": of(x, y)}, (x, y), gradients=True)
    assert [row.differing for row in report.rows[3:]] == [0, 0, 1]
    with pytest.raises(
        ValueError, match=r"gradient of two must return the shapes \[\(3,\), \(3,\), None\], as of first"
    ):
        compare({"first": of(x, y, None), "two": of(x)}, (x, y), gradients=True)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (None, "must return what it computes, to be compared, got None"),
        ((), r"must return what it computes, to be compared, got \(\)"),
        ("text", "must return arrays or numbers, alone or in tuples, lists and dicts, got str"),
        ([1, object()], "must return arrays or numbers, alone or in tuples, lists and dicts, got object"),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_results_that_are_none(returned: Any, sentence: str, gradients: bool) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^bench: f {sentence}.$"):
        compare({"f": lambda x: returned}, (np.ones(3),), gradients=gradients)


def test_results_of_numbers_and_containers() -> None:
    functions = {"f": (lambda x: [x, (1.5, None), {"a": 3}], lambda x, grad: grad[0] + grad[1][0] + grad[2]["a"])}
    assert [row.difference for row in compare(functions, (np.ones(3),), gradients=True).rows] == [0, 0]


def test_sentences() -> None:
    with pytest.raises(TypeError, match=r"bench: functions must be a mapping from names to functions, .* got list"):
        compare([np.sin])
    with pytest.raises(TypeError, match="bench: functions must have strings for names, got 3"):
        compare({3: np.sin})
    for pair in ((), (np.sin, 3), (np.sin, np.cos, np.cos)):
        with pytest.raises(TypeError, match="bench: mine must be a function, or a pair of a function and its VJP"):
            compare({"mine": pair}, (np.ones(3),))
    with pytest.raises(TypeError, match="bench: arguments by keyword must have names for keys, got 1"):
        compare({"ours": np.sin}, {1: np.ones(3)})
    with pytest.raises(
        TypeError, match=r"bench: mine cannot be called with the arguments .*unexpected keyword.*'guide'"
    ):
        compare({"mine": lambda grid: grid}, {"grid": np.ones(3), "guide": np.ones(3)})
    for seconds in (None, "1", float("nan")):
        with pytest.raises(ValueError, match="bench: seconds must be a positive number, got"):
            bench.compare({"ours": np.sin}, (np.ones(3),), seconds=seconds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bench: functions must have at least one function, got none"):
        compare({})
    with pytest.raises(TypeError, match="bench: ours must be callable, got int"):
        compare({"ours": 3})
    with pytest.raises(TypeError, match="bench: arguments must be a tuple, a list or a mapping"):
        compare({"ours": np.sin}, np.ones(3))
    with pytest.raises(ValueError, match="bench: seconds must be a positive number, got 0"):
        bench.compare({"ours": np.sin}, (np.ones(3),), seconds=0)
    with pytest.raises(
        ValueError, match=r"bench: other must return the shape \(3,\), as of ours, got the shape \(2,\)"
    ):
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


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Numba nor PyTorch is there, whose peers take the time."""
    for module in ("numba", "torch"):
        monkeypatch.setitem(sys.modules, module, None)


def test_the_command_times_a_users_function(run: Any, alone: None, tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    (tmp_path / "mine.py").write_text(MODULE)
    file, plot = tmp_path / "times.json", tmp_path / "times.svg"
    options = ("--gradients", "--size", "7x5", "--json", file, "--plot", plot)
    code, out, err = run("bench", f"{tmp_path}/mine.py:slice", *options)
    assert (code, err) == (0, "")
    assert out.startswith("slice, 7 × 5 pixels, ")
    written = json.loads(file.read_text())
    assert [(row["function"], row["direction"]) for row in written["rows"]] == [
        (name, direction) for direction in ("forward", "gradient") for name in ("bilateral_ops", "mine.py:slice")
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
    assert [row["function"] for row in rows] == ["bilateral_ops", "mine_too.py:slice", "PyTorch"] * 2
    assert all(row["difference"] < 1e-5 for row in rows)
    name = f"{tmp_path}/mine_too.py:of_tensors"
    options = ("--like", "slice", "--arrays", "torch", "--size", "7x5", "--json", file, "--gradients")
    assert run("bench", name, *options)[0] == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["difference"] for row in rows] == [0, 1, 0, 1]


SMALL = ("--size", "3x2")


def test_the_command_says_how_to_give_a_gradient(run: Any, alone: None, tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("from bilateral_ops import slice, enhance\n")
    _, out, _ = run("bench", f"{tmp_path}/mine.py:slice", "--gradients", *SMALL)
    assert "no gradient of" not in out  # it is this package's own
    (tmp_path / "mine.py").write_text("import bilateral_ops as bo\ndef enhance(*a): return bo.enhance(*a)\n")
    _, out, _ = run("bench", f"{tmp_path}/mine.py:enhance", "--gradients", *SMALL)
    assert [line for line in out.splitlines() if line.startswith("no")] == [
        "no gradient of bilateral_ops: enhance has none.",
        "no gradient of mine.py:enhance: define enhance_vjp beside it.",
    ]


def test_what_differs_is_named(run: Any, alone: None, tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "import bilateral_ops as bo\n"
        "def slice(g, z): return 1.01 * bo.slice(g, z)\n"
        "def slice_vjp(g, z, grad): return bo.slice_vjp(g, z, grad, wrt=('grid',))[0], 0 * z\n"
    )
    code, out, _ = run("bench", f"{tmp_path}/mine.py:slice", "--gradients", *SMALL)
    assert code == 0
    ends = [line.partition(":slice")[2] for line in out.splitlines() if "differ from" in line]
    assert ends[0] == ": 83.3 % of an array's elements differ from those of bilateral_ops."
    assert ends[1].startswith(", gradient: ")


def test_a_file_is_loaded_whatever_its_name(run: Any, alone: None, tmp_path: Any, monkeypatch: Any) -> None:
    """Neither it nor what is beside it takes the place of a module of that name, and what is beside it is found."""
    (tmp_path / "random.py").write_text(
        "from dataclasses import dataclass\n"
        "from beside_it import add\n"
        "@dataclass\n"
        "class Kept:\n    grid: 'object'\n"
        "def slice(grid, guide):\n"
        "    import random, colorsys, later_on\n"
        "    assert random.random and colorsys.rgb_to_hsv\n"
        "    return add(__import__('bilateral_ops').slice(Kept(grid).grid, guide))\n"
    )
    (tmp_path / "beside_it.py").write_text("def add(x): return x + 0\n")
    (tmp_path / "later_on.py").write_text("")
    (tmp_path / "colorsys.py").write_text("")
    path, before = list(sys.path), sys.modules.get("random")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert run("bench", f"{tmp_path}/random.py:slice", *SMALL)[::2] == (0, "")
    assert sys.path == path
    assert sys.modules.get("random") is before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_this_folder.py").write_text("from bilateral_ops import slice\n")
    assert run("bench", "of_this_folder:slice", *SMALL)[::2] == (0, "")


def test_files_that_are_there_stay_until_all_is_measured(run: Any, tmp_path: Any, monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib", reason="needs bilateral_ops[bench]")
    (tmp_path / "mine.py").write_text(MODULE)
    file, plot = tmp_path / "times.json", tmp_path / "times.png"
    for each in (file, plot):
        each.write_text("before")
    names = sorted(tmp_path.iterdir())
    options = ("--like", "slice", "--json", file, "--plot", plot, *SMALL)
    assert run("bench", f"{tmp_path}/mine.py:broken", *options)[0] == 2
    assert file.read_text() == plot.read_text() == "before"
    monkeypatch.setattr(cli_bench, "_measured", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("bench", *SMALL, "--json", file)
    assert file.read_text() == "before"
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == names


@pytest.mark.parametrize("device", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_a_sentence(run: Any, tmp_path: Any, device: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "mine.py").write_text(MODULE)
    options = ("--arrays", "torch", "--device", device, *SMALL)
    code, _, err = run("bench", f"{tmp_path}/mine.py:slice", *options)
    assert code == 2
    assert err.startswith(f"bilateral-ops bench: --device must be one that PyTorch has here, got '{device}' (")
    assert err.count("\n") == 1


def test_what_a_users_function_raises_is_told_from_what_the_command_says(run: Any, tmp_path: Any) -> None:
    (tmp_path / "mine_ends.py").write_text(
        "def ends(g, z): raise SystemExit('now')\ndef says(g, z): raise ValueError('bench: mine')\n"
    )
    for name, said in {"ends": "line 1: SystemExit: now", "says": "line 2: ValueError: bench: mine"}.items():
        code, _, err = run("bench", f"{tmp_path}/mine_ends.py:{name}", "--like", "slice", *SMALL)
        sentence = f"bilateral-ops bench: mine_ends.py:{name} cannot be timed with --arrays numpy ({said}).\n"
        assert (code, err) == (2, sentence)


def test_a_vjp_is_called_as_this_packages(run: Any, alone: None, tmp_path: Any) -> None:
    """Without the sizes that the gradient has."""
    (tmp_path / "mine.py").write_text(
        "import bilateral_ops as bo\n"
        "def splat(z, x, shape): return bo.splat(z, x, shape)\n"
        "def splat_vjp(z, x, grad): return tuple(bo.splat_vjp(z, x, grad))\n"
    )
    file = tmp_path / "times.json"
    code, _, err = run("bench", f"{tmp_path}/mine.py:splat", "--gradients", "--json", file, *SMALL)
    assert (code, err) == (0, "")
    rows = json.loads(file.read_text())["rows"]
    assert [(row["direction"], row["differing"]) for row in rows] == [("forward", 0)] * 2 + [("gradient", 0)] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("slice",), "the function must be named as module:function or file.py:function, got 'slice'."),
        (("no_such:f",), "no_such:f cannot be imported (ModuleNotFoundError: No module named 'no_such')."),
        (("FILE:f",), "FILE has no function f."),
        (("none.py:f",), "none.py:f cannot be imported (FileNotFoundError: [Errno 2] No such file or directory:"),
        (("FILE:slice", "--device", "cuda"), "--device is where PyTorch's arrays are; add --arrays torch."),
        (("FILE:slice", "--plot", "x.docx"), "--plot must end in one of ."),
        (("FILE:slice", "--json", "."), "--json must be a file that can be written, got '.' (Is a directory)."),
        (
            ("FILE:short",),
            "--like must name the operation that mine_wrong.py:short is like (slice, apply, slice_apply, guide_curves, "
            "guide_nn, guide_luma, splat, total_variation, resize_area, enhance).",
        ),
        (
            ("FILE:broken", "--like", "slice", *SMALL),
            "mine_wrong.py:broken cannot be timed with --arrays numpy (line 15: RuntimeError: no kernel).",
        ),
        (
            ("FILE:short", "--like", "slice", *SMALL),
            "mine_wrong.py:short must return the shape (2, 3, 3, 4), as of bilateral_ops, got the shape (2, 3).",
        ),
        (("FILE:slice", "--arrays", "cupy"), f"CuPy is not installed; run {install('cupy')}."),
        (
            ("FILE:slice", "--plot", "/no/x.png", *SMALL),
            "--plot must be a file that can be written, got '/no/x.png' (No such file or directory).",
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
    found, first = ([_results.Result(np.array([x]), 0, 0) for x in row] for row in ((np.nan, 1.0), (1.0, 1.1)))
    assert np.isnan(_results.difference(list(zip(found, first)))[0])
    row = bench.Row("ours", "forward", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, float("inf"), 1.0, 3)
    assert json.loads(bench.Report((row,), {}).to_json())["rows"][0]["difference"] is None
