"""Do trainers of radiance fields run as on ``lib_bilagrid``, whatever shapes, wrappers and ways of reading they have?

Each behaviour of the original stands beside a formulation of it in plain PyTorch.
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import python
from test_compat import colors_and_places, colors_by_grid_sample, grids_of, matrices_by_grid_sample

torch = pytest.importorskip("torch")

from bilateral_ops.compat import _bilagrid, lib_bilagrid  # noqa: E402

KEYS = ["rgb", "rgb_affine_mats"]


def original(grids: Any, gray: Callable[[Any], Any], xy: Any, rgb: Any, index: Any) -> dict[str, Any]:
    """What lib_bilagrid computes, with any function for gray."""
    places = torch.cat([xy, (gray(rgb) + 1) / 2], -1) * 2 - 1
    while places.ndim < 5:
        places = places[:, None]
    found = torch.nn.functional.grid_sample(grids[index], places, padding_mode="border", align_corners=True)
    matrices = found.movedim(1, -1).reshape(*rgb.shape[:-1], 3, 4)
    return {"rgb": (matrices[..., :3] @ rgb[..., None])[..., 0] + matrices[..., 3], "rgb_affine_mats": matrices}


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


def results(grids: Any, xy: Any, rgb: Any, index: Any, slice: Any = lib_bilagrid.slice) -> list[Any]:
    """Colours, matrices and their gradients, as of flat rays."""
    leaves = [grids.grids, rgb, xy]
    out = slice(grids, xy, rgb, index)
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal((rgb.numel() // 3, 15))).to(rgb.dtype)
    loss = (out["rgb"].reshape(-1, 3) * weights[:, :3]).sum()
    loss = loss + (out["rgb_affine_mats"].reshape(-1, 12) * weights[:, 3:]).sum()
    gradients = torch.autograd.grad(loss, leaves)
    flat = [value.reshape(len(weights), -1) for value in (out["rgb"], out["rgb_affine_mats"], *gradients[1:])]
    return [value.detach() for value in (*flat, gradients[0])]


SHAPES = [(48, 1), (48, 1, 1), (48, 1, 1, 1), (12, 4), (6, 2, 4), (3, 4, 2, 2), (6, 8)]


@pytest.mark.parametrize(("lead", "how"), [*((lead, "called") for lead in SHAPES), ((6, 2, 4), "compiled")], ids=str)
def test_shapes_are_the_flat_form(lead: tuple[int, ...], how: str) -> None:
    """Bit for bit, gradients included; and one call of as many rows."""
    grids = grids_of(lib_bilagrid, 5, grid_X=4, grid_Y=3, grid_W=3)
    rgb, xy = colors_and_places(lead)
    each = math.prod(lead[1:])
    index = torch.from_numpy(np.random.default_rng(0).integers(-5, 5, lead[0]))
    flat = [tensor.detach().reshape(-1, tensor.shape[-1]).requires_grad_() for tensor in (xy, rgb)]
    want = results(grids, *flat, index.repeat_interleave(each)[:, None])
    shaped = index.reshape(-1, *[1] * len(lead)).expand(*lead, 1)

    slice = lib_bilagrid.slice
    if how == "compiled":
        slice = torch.compile(slice, backend="aot_eager", fullgraph=True)
    for value, expected in zip(results(grids, xy, rgb, shaped, slice), want, strict=True):
        if how == "called":
            assert torch.equal(value, expected)
        else:  # sees no numbers, so that the rows are others
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("lead", [(64, 1, 1), (16, 2, 2)], ids=str)
def test_no_grid_is_copied_for_each_element(lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    found = _bilagrid.slice_apply

    def counted(grid: Any, *rest: Any, **keywords: Any) -> Any:
        copied.append(len(grid))
        return found(grid, *rest, **keywords)

    monkeypatch.setattr(_bilagrid, "slice_apply", counted)
    rgb, xy = colors_and_places(lead)
    lib_bilagrid.slice(grids_of(lib_bilagrid), xy, rgb, torch.arange(lead[0]) % 5)
    assert copied[0] <= 2 * 5


# ---------------------------------------------------------------------------------------------------------------------
# The result is a dict
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A result, the dict that the original returns, and how often matrices were looked up."""
    grids = grids_of(lib_bilagrid)
    rgb, xy = (tensor.detach() for tensor in colors_and_places((4, 5)))
    calls = []
    found = _bilagrid._slice

    def counted(*arrays: Any, **keywords: Any) -> Any:
        calls.append(arrays)
        return found(*arrays, **keywords)

    with torch.no_grad():
        plain = dict(lib_bilagrid.slice(grids, xy, rgb, 1).items())
        monkeypatch.setattr(_bilagrid, "_slice", counted)
        return SimpleNamespace(out=lib_bilagrid.slice(grids, xy, rgb, 1), plain=plain, calls=calls)


def merged(out: Any) -> dict[str, Any]:
    result = {"depth": torch.zeros(())}
    result.update(out)
    result.pop("depth")
    return result


READ = {
    "[]": lambda out: {key: out[key] for key in KEYS},
    "get": lambda out: {key: out.get(key) for key in KEYS},
    "items": lambda out: dict(list(out.items())),
    "values": lambda out: dict(zip(out, out.values())),
    "copy": lambda out: out.copy(),
    "dict": dict,
    "**": lambda out: {**out},
    "call": lambda out: (lambda **given: given)(**out),
    "update": merged,
    "|": lambda out: out | {},
    "from the right": lambda out: {} | out,
    "|=": lambda out: dict(out.__ior__({})),
    "pop": lambda out: {key: out.pop(key) for key in KEYS},
    "popitem": lambda out: dict([out.popitem(), out.popitem()][::-1]),
    "setdefault": lambda out: {key: out.setdefault(key) for key in KEYS},
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda out: pickle.loads(pickle.dumps(out)),
    "match": lambda out: _matched(out),
    "tree_map": lambda out: torch.utils._pytree.tree_map(torch.clone, out),
    "tree with paths": lambda out: {
        path[0].key: value for path, value in torch.utils._pytree.tree_flatten_with_path(out)[0]
    },
    "torch.func": lambda out: torch.func.vmap(lambda x: x)(out),
    "gather": lambda out: type(out)((key, out[key]) for key in out),
    "map": lambda out: type(out)({key: value + 0 for key, value in out.items()}),
}


def _matched(out: Any) -> dict[str, Any]:
    match out:
        case {"rgb": rgb, **rest}:
            return {"rgb": rgb, **rest}
    raise AssertionError


@pytest.mark.parametrize("way", READ)
def test_the_result_reads_as_a_dict(way: str, sliced: SimpleNamespace) -> None:
    got = READ[way](sliced.out)
    assert isinstance(got, dict)
    assert list(got) == KEYS
    for key in KEYS:
        assert torch.equal(dict.__getitem__(got, key), sliced.plain[key])  # nothing is left to be computed
    assert len(sliced.calls) == 1


def test_matrices_wait_until_they_are_read(sliced: SimpleNamespace) -> None:
    out = sliced.out
    assert isinstance(out, dict)
    assert (len(out), list(out), list(out.keys()), list(reversed(out))) == (2, KEYS, KEYS, KEYS[::-1])
    assert "rgb_affine_mats" in out
    assert "depth" not in out
    assert out.get("depth", 7) == out.pop("depth", 7) == 7
    with pytest.raises(KeyError):
        out.pop("depth")
    assert torch.equal(out["rgb"], sliced.plain["rgb"])
    assert out.get("rgb") is out["rgb"] is out.pop("rgb")
    out["rgb"] = out["more"] = torch.zeros(())
    del out["more"]
    assert not sliced.calls
    out["rgb_affine_mats"] = out["rgb"]
    assert dict(out) == {"rgb_affine_mats": out["rgb"], "rgb": out["rgb"]}
    assert not sliced.calls


def test_results_compare_as_dicts(sliced: SimpleNamespace) -> None:
    same = dict(sliced.out)
    assert sliced.out == same
    assert same == sliced.out
    assert sliced.out != {"rgb": same["rgb"]}
    assert sliced.out.__ne__(same) is False
    assert repr(sliced.out) == repr(same)
    with pytest.raises(TypeError, match="unhashable"):
        hash(sliced.out)


def test_results_are_saved_as_dicts(sliced: SimpleNamespace, tmp_path: Path) -> None:
    torch.save(sliced.out, tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert isinstance(loaded, dict)
    assert all(torch.equal(loaded[key], sliced.plain[key]) for key in KEYS)


def test_a_compiled_function_returns_both_and_computes_what_is_read() -> None:
    grids = grids_of(lib_bilagrid)
    rgb, xy = colors_and_places((4, 5))
    operators: list[list[str]] = []

    def inspected(graph: Any, _: Any) -> Any:
        operators.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    def both(xy: Any, rgb: Any) -> Any:
        return lib_bilagrid.slice(grids, xy, rgb, 1)

    want = original(grids.grids, lambda rgb: rgb @ rgb.new_tensor([[0.299, 0.587, 0.114]]).T * 2 - 1, xy, rgb, [1] * 4)
    got = torch.compile(both, backend=_after_aot(inspected), fullgraph=True)(xy, rgb)
    for key in KEYS:
        torch.testing.assert_close(got[key], want[key])
    torch.compile(lambda xy, rgb: both(xy, rgb)["rgb"], backend=_after_aot(inspected), fullgraph=True)(xy, rgb)
    with_matrices, without = (sum("slice.default" in name for name in names) for names in operators)
    assert (with_matrices, without) == (1, 0)


def _after_aot(inspect: Any) -> Any:
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=inspect, bw_compiler=lambda graph, _: graph.forward)


# ---------------------------------------------------------------------------------------------------------------------
# The module is honoured
# ---------------------------------------------------------------------------------------------------------------------


class Brighter(lib_bilagrid.BilateralGrid):
    def forward(self, *given: Any, **named: Any) -> Any:
        return 2 * super().forward(*given, **named)


class OwnGray(lib_bilagrid.BilateralGrid):
    def rgb2gray(self, rgb: Any) -> Any:
        return rgb[..., 1:2] * 2 - 1


def green(rgb: Any) -> Any:
    return rgb[..., 1:2] * 2 - 1


def learnt_gray() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1), torch.nn.Tanh()).double()


def of_bt709(rgb: Any) -> Any:
    return rgb @ torch.tensor([[0.2126, 0.7152, 0.0722]], dtype=torch.float32).double().T * 2 - 1


def with_gray(gray: Any) -> Callable[[], Any]:
    def made() -> Any:
        grids = grids_of(lib_bilagrid)
        grids.rgb2gray = gray()
        return grids

    return made


def with_weights(how: str) -> Callable[[], Any]:
    weights = torch.tensor([[0.2126, 0.7152, 0.0722]])

    def made() -> Any:
        grids = grids_of(lib_bilagrid, dtype="float32")
        if how == "loaded":
            grids.load_state_dict({**grids.state_dict(), "rgb2gray_weight": weights})
        elif how == "assigned":
            grids.load_state_dict({**grids.state_dict(), "rgb2gray_weight": weights}, assign=True)
        elif how == "replaced":
            grids.rgb2gray_weight = weights.clone()
        else:
            grids.rgb2gray_weight.copy_(weights)
        return grids.double()

    return made


def hooked() -> Any:
    grids = grids_of(lib_bilagrid)
    grids.register_forward_hook(lambda module, given, out: out + 1)
    return grids


def of(cls: Any) -> Callable[[], Any]:
    return lambda: grids_of(SimpleNamespace(BilateralGrid=cls))


def unchanged(matrices: Any) -> Any:
    return matrices


HONOURED: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "forward of a subclass": (of(Brighter), None, lambda matrices: 2 * matrices),
    "gray of a subclass": (of(OwnGray), green, unchanged),
    "gray of an instance": (with_gray(lambda: green), green, unchanged),
    "learnt gray": (with_gray(learnt_gray), learnt_gray(), unchanged),
    "weights of a checkpoint": (with_weights("loaded"), of_bt709, unchanged),
    "assigned weights of a checkpoint": (with_weights("assigned"), of_bt709, unchanged),
    "other weights": (with_weights("replaced"), of_bt709, unchanged),
    "weights written to": (with_weights("written to"), of_bt709, unchanged),
    "forward hook": (hooked, None, lambda matrices: matrices + 1),
    "compiled": (lambda: torch.compile(grids_of(lib_bilagrid), backend="eager"), None, unchanged),
    "wrapped": (lambda: _Wrapper(grids_of(lib_bilagrid)), None, unchanged),
}


class _Wrapper(torch.nn.Module):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any) -> Any:
        return self.module(*given)


@pytest.mark.parametrize(
    ("what", "lead"),
    [(what, lead) for what in HONOURED for lead in [(9,), (3, 5), (3, 4, 5)] if what != "compiled" or len(lead) == 3],
    ids=str,
)
def test_the_module_is_honoured(what: str, lead: tuple[int, ...]) -> None:
    made, gray, change = HONOURED[what]
    grids = made()
    parameter = next(value for name, value in grids.named_parameters() if name.endswith("grids"))
    rgb, xy = colors_and_places(lead)
    leaves = [parameter, rgb, xy]
    gray = gray or (lambda rgb: rgb @ rgb.new_tensor([[0.299, 0.587, 0.114]]).T * 2 - 1)
    for index in (torch.tensor([[3]]), (torch.arange(9) * 2 % 5)[: lead[0]].reshape(-1, *[1] * len(lead))):
        number = index.flatten().expand(lead[0])
        got = lib_bilagrid.slice(grids, xy, rgb, index)
        matrices = change(original(parameter, gray, xy, rgb, number)["rgb_affine_mats"])
        colors = (matrices[..., :3] @ rgb[..., None])[..., 0] + matrices[..., 3]
        torch.testing.assert_close(got["rgb"], colors)
        torch.testing.assert_close(got["rgb_affine_mats"], matrices)
        ours = torch.autograd.grad(got["rgb"].square().sum() + got["rgb_affine_mats"].sum(), leaves)
        theirs = torch.autograd.grad(colors.square().sum() + matrices.sum(), leaves)
        torch.testing.assert_close(ours, theirs)


def test_rgb2gray_is_what_colours_are_looked_up_at() -> None:
    rgb, _ = colors_and_places((4, 5))
    for made, gray in ((of(OwnGray), green), (with_gray(lambda: green), green), (with_weights("loaded"), of_bt709)):
        torch.testing.assert_close(made().rgb2gray(rgb), gray(rgb))
    copied = copy.deepcopy(with_weights("written to")())
    torch.testing.assert_close(copied.rgb2gray(rgb), of_bt709(rgb))
    with pytest.raises(AttributeError, match="depth"):
        grids_of(lib_bilagrid).depth  # noqa: B018


@pytest.mark.parametrize("lead", [(9,), (3, 4, 5)], ids=str)
def test_tensors_of_grids(lead: tuple[int, ...]) -> None:
    grids = grids_of(lib_bilagrid)
    rgb, xy = colors_and_places(lead)
    index = torch.arange(lead[0]) % 5
    for key in KEYS:
        got = lib_bilagrid.slice(grids.grids, xy, rgb, index)[key]
        assert torch.equal(got, lib_bilagrid.slice(grids, xy, rgb, index)[key])
    with pytest.raises(ValueError, match=r"^slice: grids must have shape \(N, 12, L, H, W\), got \(4, 5\)\.$"):
        lib_bilagrid.slice(torch.zeros(4, 5), xy, rgb, index)


# ---------------------------------------------------------------------------------------------------------------------
# Trainers in several processes
# ---------------------------------------------------------------------------------------------------------------------

_DDP = """
import sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from bilateral_ops.compat import lib_bilagrid as lib

class Field(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bil_grids = lib.BilateralGrid(4, 4, 3, 3)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, xy, rgb, index):
        return lib.slice(self.bil_grids, xy, rgb, index)

def run(rank, address, queue):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=address, world_size=2, rank=rank)
    found = {}
    for way in ("grids", "model"):
        torch.manual_seed(1)
        field = Field()
        with torch.no_grad():
            field.bil_grids.grids.add_(torch.randn_like(field.bil_grids.grids))
        rgb, xy = torch.rand(2, 6, 3), torch.rand(2, 6, 2)
        index = torch.tensor([[0, 1, 3, 1, 0, 3], [3, 3, 3, 0, 0, 0]])
        if way == "grids":
            wrapped = DistributedDataParallel(field.bil_grids)
            out = lib.slice(wrapped, xy[rank], rgb[rank], index[rank, :, None])
        else:
            wrapped = DistributedDataParallel(field, find_unused_parameters=True)
            out = wrapped(xy[rank], rgb[rank], index[rank, :, None])
        out["rgb"].square().sum().backward()
        found[way] = field.bil_grids.grids.grad
    if rank == 0:
        torch.save(found, queue)
    distributed.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.start_processes(run, (sys.argv[1], sys.argv[2]), 2, start_method="fork")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_processes_of_ddp(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    script, saved = tmp_path / "ddp.py", tmp_path / "gradients.pt"
    script.write_text(_DDP)
    arguments = [str(script), f"file://{tmp_path / 'store'}", str(saved)]
    run = f"import runpy, sys; sys.argv = {arguments}; runpy.run_path({str(script)!r}, run_name='__main__')"
    finished = python(run, timeout=120, OMP_NUM_THREADS="1")
    assert finished.returncode == 0, finished.stderr

    torch.manual_seed(1)
    grids = lib_bilagrid.BilateralGrid(4, 4, 3, 3)
    with torch.no_grad():
        grids.grids.add_(torch.randn_like(grids.grids))
    rgb, xy, index = torch.rand(2, 6, 3), torch.rand(2, 6, 2), torch.tensor([[0, 1, 3, 1, 0, 3], [3, 3, 3, 0, 0, 0]])
    loss = sum(colors_by_grid_sample(grids.grids, *given).square().sum() for given in zip(xy, rgb, index)) / 2
    (want,) = torch.autograd.grad(loss, grids.grids)
    found = torch.load(saved)
    assert set(found) == {"grids", "model"}
    for gradient in found.values():
        torch.testing.assert_close(gradient, want)


def test_accelerate(sliced: SimpleNamespace) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    sent = accelerate.utils.send_to_device(sliced.out, "meta")
    assert {key: (value.device.type, value.shape) for key, value in sent.items()} == {
        key: ("meta", value.shape) for key, value in sliced.plain.items()
    }
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    grids = accelerator.prepare(grids_of(lib_bilagrid, dtype="float32"))
    rgb, xy = (tensor.detach() for tensor in colors_and_places((9,), "float32"))
    index = torch.arange(9) % 5
    got = lib_bilagrid.slice(grids, xy, rgb, index)
    torch.testing.assert_close(got["rgb"], colors_by_grid_sample(grids.grids, xy, rgb, index))
    accelerator.backward(got["rgb"].sum())
    assert grids.grids.grad.any()


# ---------------------------------------------------------------------------------------------------------------------
# Dtypes, devices, sentences
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [True, False], ids=["several grids", "one grid"])
@pytest.mark.parametrize(
    ("grids", "xy", "rgb", "want"),
    [
        ("float32", "float64", "float32", "float32"),
        ("float32", "float16", "float32", "float32"),
        ("float32", "float64", "float64", "float32"),
        ("float32", "float64", "float16", "float16"),
        ("float64", "float32", "float32", "float64"),
        ("float16", "float32", "float16", "float16"),
        ("bfloat16", "float64", "float64", "float32"),
    ],
    ids=str,
)
def test_dtypes_are_cast(grids: str, xy: str, rgb: str, want: str, several: bool) -> None:
    lead = (9,)
    module = grids_of(lib_bilagrid, dtype=grids, grid_X=3, grid_Y=3, grid_W=2)
    colors, _ = colors_and_places(lead, rgb)
    _, places = colors_and_places(lead, xy)
    index = torch.arange(9) % 5 if several else torch.tensor(2)
    out = lib_bilagrid.slice(module, places, colors, index)
    assert str(out["rgb"].dtype) == f"torch.{want}"
    exact = matrices_by_grid_sample(module.grids.double(), places.double(), colors.double(), index.expand(9))
    coarse = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[want]
    torch.testing.assert_close(out["rgb_affine_mats"].double(), exact, rtol=coarse, atol=coarse)
    out["rgb"].sum().backward()
    for leaf in (module.grids, colors, places):
        assert leaf.grad.dtype == leaf.dtype


def test_a_module_without_memory_is_loaded_by_assignment() -> None:
    saved = grids_of(lib_bilagrid, 2, dtype="float32").state_dict()
    for names in (saved, ["grids"]):
        with torch.device("meta"):
            grids = lib_bilagrid.BilateralGrid(2, 7, 6, 4)
        assert grids.grids.is_meta
        grids.load_state_dict({name: saved[name] for name in names}, assign=True)
        rgb, xy = (tensor.detach() for tensor in colors_and_places((9,), "float32"))
        torch.testing.assert_close(
            lib_bilagrid.slice(grids, xy, rgb, 1)["rgb"], colors_by_grid_sample(saved["grids"], xy, rgb, [1] * 9)
        )


@pytest.mark.parametrize("call", ["slice", "module"])
def test_the_sentence_names_the_number_of_a_grid(call: str) -> None:
    grids = grids_of(lib_bilagrid)
    rgb, xy = colors_and_places((9,))
    index = torch.tensor([0, 1, 2, 7, 0, 0, 0, 0, 1])
    with pytest.raises(IndexError) as raised:
        lib_bilagrid.slice(grids, xy, rgb, index) if call == "slice" else grids(xy, rgb, index)
    who, name = {"slice": ("slice", "grid_idx"), "module": ("BilateralGrid", "idx")}[call]
    assert str(raised.value) == f"{who}: {name} must name one of 5 grids, from -5 to 4, got 7."


def test_the_roughness_of_a_models_grids() -> None:
    model = SimpleNamespace(bil_grids=[grids_of(lib_bilagrid, 2), grids_of(lib_bilagrid, 3, seed=1)])
    want = sum(0.5 * sum(m.grids.diff(dim=d).square().mean() for d in (2, 3, 4)) for m in model.bil_grids)
    got = lib_bilagrid.bilateral_grid_tv_loss(model, SimpleNamespace(bilgrid_tv_loss_mult=0.5))
    torch.testing.assert_close(got, want)
