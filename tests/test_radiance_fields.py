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

from bilateral_ops.compat import _bilagrid, fused_bilagrid, gsplat, lib_bilagrid  # noqa: E402

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


# ---------------------------------------------------------------------------------------------------------------------
# fused_bilagrid
# ---------------------------------------------------------------------------------------------------------------------


def corner_to_corner(h: int, w: int) -> Any:
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    return torch.stack([x, y], -1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["module", "wrapped"])
def test_the_fused_module_returns_colours(wrapped: bool, dtype: str) -> None:
    """In float32, whatever it is given; and slice calls the module."""
    grids = grids_of(fused_bilagrid, dtype="float32")
    module = _Wrapper(grids) if wrapped else grids
    index = torch.tensor([3, 0, 4])
    for lead in [(3,), (3, 5), (3, 4, 5), (3, 2, 4, 5)]:
        rgb, xy = colors_and_places(lead, dtype)
        want = colors_by_grid_sample(grids.grids, xy.float(), rgb.float(), index)
        for got in (module(xy, rgb, index), fused_bilagrid.slice(module, xy, rgb, index[:, None])["rgb"]):
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            leaves = (grids.grids, rgb)
            close = {"rtol": 1e-4, "atol": 1e-4} if dtype != "float16" else {"rtol": 2e-3, "atol": 2e-3}
            ours, theirs = (torch.autograd.grad(x.sum(), leaves, retain_graph=True) for x in (got, want))
            torch.testing.assert_close(ours, theirs, **close)
        one = fused_bilagrid.slice(module, xy, rgb, torch.tensor([[2]]))
        assert list(one) == ["rgb"]
        want = colors_by_grid_sample(grids.grids, xy.float(), rgb.float(), [2] * 3)
        torch.testing.assert_close(one["rgb"], want, rtol=1e-5, atol=1e-5)


def test_fused_coordinates_get_a_gradient_where_it_is_asked_for() -> None:
    grids = grids_of(fused_bilagrid, dtype="float32")
    rgb, xy = colors_and_places((3, 4, 5), "float32")
    fused_bilagrid.slice(grids, xy, rgb, torch.tensor([1]))["rgb"].sum().backward()
    assert xy.grad is None
    fused_bilagrid.slice(grids, xy, rgb, torch.tensor([1]), compute_coords_grad=True)["rgb"].sum().backward()
    want = colors_by_grid_sample(grids.grids, xy, rgb, [1] * 3).sum()
    torch.testing.assert_close(xy.grad, torch.autograd.grad(want, xy)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["coordinates", "whole views", "patches"])
def test_fused_bilagrid_sample(where: str) -> None:
    grids = grids_of(fused_bilagrid, 3, dtype="float32").grids
    rgb, xy = (tensor.detach() for tensor in colors_and_places((3, 2, 4, 5), "float32"))
    offsets = torch.tensor([[[0, 0], [6, 5]], [[2, 1], [1, 4]], [[3, 3], [5, 0]]]).int()
    if where == "coordinates":
        got = fused_bilagrid.fused_bilagrid_sample(grids, xy, rgb)
    elif where == "whole views":
        got, xy = fused_bilagrid.fused_bilagrid_sample(grids, None, rgb), corner_to_corner(4, 5).expand(3, 2, 4, 5, 2)
    else:
        got = fused_bilagrid.fused_bilagrid_sample(grids, None, rgb, False, 9, 11, offsets)
        xy = torch.stack([corner_to_corner(9, 11)[y : y + 4, x : x + 5] for x, y in offsets.reshape(-1, 2).tolist()])
    want = colors_by_grid_sample(grids, xy.reshape(3, 2, 4, 5, 2), rgb, torch.arange(3))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    sentence = "^fused_bilagrid_sample: rgb must have as many elements along its first axis as there are grids, 3, got"
    with pytest.raises(ValueError, match=sentence):
        fused_bilagrid.fused_bilagrid_sample(grids, None, rgb[:2])


def test_fused_grids_are_saved_and_loaded() -> None:
    grids = grids_of(fused_bilagrid, 2, dtype="float32")
    assert set(grids.state_dict()) == {"grids"}
    grids.load_state_dict(grids_of(lib_bilagrid, 2, seed=1, dtype="float32").state_dict())
    assert torch.equal(grids.grids, grids_of(lib_bilagrid, 2, seed=1, dtype="float32").grids)
    want = sum(grids.grids.diff(dim=axis).square().mean() for axis in (2, 3, 4))
    torch.testing.assert_close(grids.tv_loss(), want)
    assert fused_bilagrid.total_variation_loss(grids.grids.double()).dtype == torch.float32
    assert fused_bilagrid.BilateralGrid(3, 4, 5, 6).grids.shape == (3, 12, 6, 5, 4)
    white = torch.ones(1, 4, 5, 3)
    assert torch.equal(fused_bilagrid.slice(fused_bilagrid.BilateralGrid(3), None, white, 1)["rgb"], white)


# ---------------------------------------------------------------------------------------------------------------------
# gsplat
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["images", "a grey reference", "no relation"])
def test_affine_correction_of_colour(what: str) -> None:
    rng = np.random.default_rng(0)
    img, ref = torch.from_numpy(rng.random((2, 4, 5, 3)) * 0.5), torch.from_numpy(rng.random((2, 4, 5, 3)))
    if what == "images":
        img = 0.7 * ref + 0.1 + 0.05 * img
    elif what == "a grey reference":
        ref = torch.full_like(ref, 0.4)
    leaves = [img.requires_grad_(), ref.requires_grad_()]
    x, y = img.reshape(-1, 3), ref.reshape(-1, 3)
    variance = ((y * y).mean(0) - y.mean(0) ** 2).clamp(min=1e-8)
    a = ((y * x).mean(0) - y.mean(0) * x.mean(0)) / variance
    b = x.mean(0) - a * y.mean(0)
    a = torch.where(a.abs() < 1e-8, torch.ones_like(a), a)
    want = ((x - b) / a).clamp(0, 1).reshape(img.shape)
    got = gsplat.color_correct_affine(img, ref)
    if what == "a grey reference":  # of which every fit is as good; there theirs is of rounding errors
        torch.testing.assert_close(got, (img - img.reshape(-1, 3).mean(0) + 0.4).clamp(0, 1))
        return
    torch.testing.assert_close(got, want)
    ours, theirs = (torch.autograd.grad(out.square().sum(), leaves) for out in (got, want))
    torch.testing.assert_close(ours, theirs)


def test_affine_correction_undoes_an_exposure() -> None:
    ref = torch.rand(3, 40, 50, 3) * 0.001 + 0.5  # of which float32's mean of squares knows three digits
    torch.testing.assert_close(gsplat.color_correct_affine(0.8 * ref + 0.05, ref), ref, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"^color_correct_affine: ref must have as many pixels and channels as img"):
        gsplat.color_correct_affine(ref, ref[:2])


def test_quadratic_correction_is_color_correct() -> None:
    img = torch.rand(40, 50, 3)
    ref = 0.1 + 0.7 * img
    assert torch.equal(gsplat.color_correct_quadratic(img, ref), lib_bilagrid.color_correct(img, ref))


def test_drift_from_the_identity() -> None:
    grids = [grids_of(lib_bilagrid, 2).grids, grids_of(lib_bilagrid, 1, grid_X=3, grid_Y=2, grid_W=2).grids]
    got = gsplat.bilateral_grid_drift_loss(grids)
    assert got.shape == (2 * 4 * 6 * 7 + 2 * 2 * 3,)
    want = []
    for grid in grids:
        matrices = grid.unflatten(1, (3, 4)).movedim((1, 2), (-2, -1))
        want.append(torch.linalg.matrix_norm(matrices - torch.eye(3, 4, dtype=grid.dtype)).flatten())
    torch.testing.assert_close(got, torch.cat(want))
    ours, theirs = (torch.autograd.grad(loss.sum(), grids) for loss in (got, torch.cat(want)))
    torch.testing.assert_close(ours, theirs)
    fresh = lib_bilagrid.BilateralGrid(2, 3, 3, 2).grids
    (gradient,) = torch.autograd.grad(gsplat.bilateral_grid_drift_loss([fresh]).sum(), fresh)
    assert not gradient.any()
    assert gsplat.bilateral_grid_drift_loss([]).shape == (0,)
    torch.testing.assert_close(gsplat.bilateral_grid_drift_loss([torch.zeros(2, 6)], 2, 3), torch.full((2,), 2**0.5))
    with pytest.raises(
        ValueError, match=r"^identity_distance: grid must have shape \(B, 12, \.\.\.\), got \(2, 6\)\.$"
    ):
        gsplat.bilateral_grid_drift_loss([torch.zeros(2, 6)])


# ---------------------------------------------------------------------------------------------------------------------
# Low-rank grids over space and gray
# ---------------------------------------------------------------------------------------------------------------------


def matrices_of_curves(grid: Any, gray: Any, xyz: Any, rgb: Any) -> Any:
    """What lib_bilagrid computes."""
    places = torch.cat([xyz.reshape(-1, 3) / grid.bound, gray(rgb.reshape(-1, 3))], -1)
    product: Any = 1
    for i in range(1, 5):
        at = torch.stack([torch.zeros_like(places[:, 0]), places[:, i - 1]], -1)[None, None]
        curves = getattr(grid, f"fac_{i}") + getattr(grid, f"fac_{i}_init")
        found = torch.nn.functional.grid_sample(curves, at, align_corners=True, padding_mode="border")
        product = product * found[0, :, 0]
    return (product.T @ grid.fac_0.weight.T).reshape(*xyz.shape[:-1], 3, 4)


@pytest.mark.parametrize("lead", [(9,), (3, 4, 5), (0,)], ids=str)
@pytest.mark.parametrize("learnt", [True, False], ids=["learnt gray", "BT.601"])
def test_low_rank_grids(learnt: bool, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    grid = lib_bilagrid.BilateralGridCP4D(5, 4, 3, 2, rank=3, learn_gray=learnt, bound=1.5).double()
    with torch.no_grad():
        for parameter in grid.parameters():
            parameter.add_(torch.randn_like(parameter))
    rgb, _ = colors_and_places(lead)
    xyz = (torch.rand(*lead, 3, dtype=torch.float64) * 4 - 2).requires_grad_()
    weights = torch.tensor([[0.299, 0.587, 0.114]]).double()
    gray = torch.nn.Sequential(*grid.rgb2gray) if learnt else lambda rgb: rgb @ weights.T * 2 - 1
    want = matrices_of_curves(grid, gray, xyz, rgb)
    got = lib_bilagrid.slice4d(grid, xyz, rgb)
    torch.testing.assert_close(got["rgb_affine_mats"], want)
    colors = (want[..., :3] @ rgb[..., None])[..., 0] + want[..., 3]
    torch.testing.assert_close(got["rgb"], colors)
    leaves = [xyz, rgb, *grid.parameters()]
    ours, theirs = (torch.autograd.grad(out.square().sum(), leaves) for out in (got["rgb"], colors))
    torch.testing.assert_close(ours, theirs)
    roughness = sum(getattr(grid, f"fac_{i}").diff(dim=2).square().mean() for i in range(1, 5))
    torch.testing.assert_close(grid.tv_loss(), roughness)


def test_low_rank_grids_have_the_originals_checkpoints() -> None:
    cells = {"fac_1": 8, "fac_2": 14, "fac_3": 15, "fac_4": 16}
    original = {"fac_0.weight": (12, 5)}
    for name, count in cells.items():
        original |= {name: (1, 5, count, 1), f"{name}_init": (1, 5, count, 1)}
    gray = {"rgb2gray.0.weight": (8, 3), "rgb2gray.0.bias": (8,), "rgb2gray.2.weight": (1, 8), "rgb2gray.2.bias": (1,)}
    for learnt, rest in ((True, gray), (False, {"rgb2gray_weight": (1, 3)})):
        grid = lib_bilagrid.BilateralGridCP4D(16, 15, 14, 8, learn_gray=learnt)
        assert {name: tuple(value.shape) for name, value in grid.state_dict().items()} == original | rest
    deep = lib_bilagrid.BilateralGridCP4D(gray_mlp_width=6, gray_mlp_depth=3)
    shapes = [tuple(layer.weight.shape) for layer in deep.rgb2gray if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(6, 3), (6, 6), (1, 6)]
    with pytest.raises(ValueError, match=r"^BilateralGridCP4D: gray_mlp_depth must be 2 or more, got 1\.$"):
        lib_bilagrid.BilateralGridCP4D(gray_mlp_depth=1)


def test_low_rank_grids_begin_as_the_identity_and_learn() -> None:
    torch.manual_seed(0)
    grid = lib_bilagrid.BilateralGridCP4D()
    xyz, rgb = torch.rand(2, 500, 3)
    assert (lib_bilagrid.slice4d(grid, xyz, rgb)["rgb"] - rgb).abs().max() < 1e-3
    wanted = torch.where(xyz[:, :1] > 0.5, rgb.flip(-1), rgb)  # more than one product can do
    optimizer = torch.optim.Adam(grid.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = (lib_bilagrid.slice4d(grid, xyz, rgb)["rgb"] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    nowhere = xyz.clone()
    nowhere[3, 1] = math.nan  # as grid_sample does
    out = lib_bilagrid.slice4d(grid, nowhere, rgb)["rgb"]
    assert out.isfinite().all()
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in grid.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Sparse gradients
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(9,), (9, 1, 1), (3, 8, 8), (2, 40, 50)], ids=str)
@pytest.mark.parametrize("form", ["one", "several", "from the last"])
def test_sparse_gradients_are_the_dense_ones(lead: tuple[int, ...], form: str) -> None:
    dense, sparse = grids_of(lib_bilagrid), lib_bilagrid.BilateralGrid(5, grid_X=6, grid_Y=7, grid_W=4, sparse=True)
    sparse.grids = torch.nn.Parameter(dense.grids.detach().clone())
    rgb, xy = colors_and_places(lead)
    count = len(dense.grids)
    index = torch.tensor([2]) if form == "one" else torch.arange(lead[0]) % 2 * 2
    if form == "from the last":
        index = index - count
    found = []
    for grids in (dense, sparse):
        result = lib_bilagrid.slice(grids, xy, rgb, index)["rgb"]
        (result.square().sum() + grids.tv_loss(index % count)).backward()
        found.append(result)
    assert torch.equal(*found)
    assert sparse.grids.grad.is_sparse
    rows = sparse.grids.grad.coalesce()
    assert sorted(rows.indices()[0].tolist()) == sorted(set((index % count).tolist()))
    assert torch.allclose(rows.to_dense(), dense.grids.grad, atol=1e-6)


def test_a_step_of_a_sparse_optimizer_moves_the_views_grids_alone() -> None:
    grids = lib_bilagrid.BilateralGrid(7, grid_X=4, grid_Y=4, grid_W=3, sparse=True)
    optimizer = torch.optim.SparseAdam(grids.parameters(), lr=1e-2)
    before, image = grids.grids.detach().clone(), torch.rand(1, 12, 15, 3)
    for view in (3, 5, 3):
        optimizer.zero_grad()
        result = lib_bilagrid.slice(grids, None, image, torch.tensor([view]))["rgb"]
        ((result - image.sqrt()).square().mean() + grids.tv_loss(view)).backward()
        optimizer.step()
    moved = (grids.grids.detach() != before).flatten(1).any(1)
    assert moved.nonzero()[:, 0].tolist() == [3, 5]


def test_the_roughness_of_sparse_grids_has_a_sparse_gradient() -> None:
    grids = lib_bilagrid.BilateralGrid(3, grid_X=4, grid_Y=4, grid_W=3, sparse=True)
    with torch.no_grad():
        grids.grids.copy_(torch.rand_like(grids.grids))
    loss = grids.tv_loss()
    assert torch.equal(loss, lib_bilagrid.total_variation_loss(grids.grids))
    loss.backward()
    assert grids.grids.grad.is_sparse


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("lead", [(3,), (3, 5, 4)], ids=str)
def test_a_grid_that_is_not_there_is_named(lead: tuple[int, ...], sparse: bool) -> None:
    grids = lib_bilagrid.BilateralGrid(5, grid_X=4, grid_Y=4, grid_W=3, sparse=sparse)
    for wrong in (5, -6):
        sentence = rf"^slice: grid_idx must name one of 5 grids, from -5 to 4, got {wrong}\.$"
        with pytest.raises(IndexError, match=sentence):
            lib_bilagrid.slice(grids, torch.rand(*lead, 2), torch.rand(*lead, 3), torch.tensor([0, wrong, 1]))


# ---------------------------------------------------------------------------------------------------------------------
# Places by their rule
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(12, 15, 3), (2, 12, 15, 3), (2, 3, 5, 4, 3)], ids=str)
@pytest.mark.parametrize("rule", ["centers", "corners"])
def test_a_rule_stands_for_its_mesh(rule: str, lead: tuple[int, ...]) -> None:
    grids, rgb = grids_of(lib_bilagrid), torch.rand(*lead, dtype=torch.float64)
    index = torch.tensor([3]) if len(lead) == 3 else torch.tensor([3, 1])
    height, width = lead[-3:-1]
    y, x = ((torch.arange(n) + 0.5) / n if rule == "centers" else torch.arange(n) / (n - 1) for n in (height, width))
    mesh = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).double().expand(*lead[:-1], 2)

    for function in (lambda *given: lib_bilagrid.slice(grids, *given)["rgb"], grids):
        got, want = function(rule, rgb, index), function(mesh, rgb, index)
        assert torch.allclose(got, want, atol=1e-6)
    hooked = grids_of(lib_bilagrid)
    hooked.register_forward_hook(lambda *_: None)
    got = lib_bilagrid.slice(hooked, rule, rgb, index)["rgb"]
    assert torch.allclose(got, lib_bilagrid.slice(grids, mesh, rgb, index)["rgb"], atol=1e-6)


def test_a_rule_is_of_images_and_one_of_two() -> None:
    grids = grids_of(lib_bilagrid)
    with pytest.raises(ValueError, match=r"^slice: xy must be given for rays, got 'centers'\.$"):
        lib_bilagrid.slice(grids, "centers", torch.rand(9, 3), 1)
    with pytest.raises(ValueError, match=r"^slice: xy must be a tensor, 'centers', 'corners' or None, got 'edges'\.$"):
        lib_bilagrid.slice(grids, "edges", torch.rand(1, 4, 5, 3), 1)
