"""Is the package at home in PyTorch: recorded, differentiated twice, compiled, exported, batched, in many processes?"""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import from_torch, to_torch
from cases import (
    ALL_F32,
    ALL_F64,
    BF16,
    DIFFERENTIABLE,
    F16,
    F32,
    F64,
    GUIDES,
    NUMBERS,
    SAMPLED,
    SUBJECTS,
    U8,
    Dtypes,
    arguments,
    arrays,
    assert_forward,
    assert_gradient,
    assert_same_bits,
    backward,
    backward_example,
    cases_of,
    clear_of_kinks,
    fields,
    forward,
    operation,
    python,
    random_like,
    replaced,
    tolerance,
)

import bilateral_ops
from bilateral_ops._core.missing import install
from bilateral_ops.ops import OPERATIONS
from bilateral_ops.reference import _formulas
from bilateral_ops.reference import numpy as reference

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
framework = pytest.importorskip("bilateral_ops.frameworks.torch")

SMALL = {"H": 3, "W": 4}
EACH = pytest.mark.parametrize("subject", SUBJECTS)
EACH_DIFFERENTIABLE = pytest.mark.parametrize("subject", DIFFERENTIABLE)
PEERS = {torch: to_torch, np: lambda array: array}


def sent(value: Any) -> Any:
    """NumPy arrays, those of a guide record too, as tensors."""
    if isinstance(value, np.ndarray):
        return to_torch(value)
    return type(value)(**{k: sent(v) for k, v in inside.items()}) if (inside := fields(value)) else value


def tensors_of(subject: str, dtypes: Dtypes = ALL_F64, **options: Any) -> dict[str, Any]:
    given = arguments(subject, dtypes, **{**SMALL, **options})
    return {name: sent(value) for name, value in clear_of_kinks(subject, given).items()}


def split(given: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Names and values of the tensors among the arguments."""
    names = [name for name, value in given.items() if isinstance(value, torch.Tensor)]
    return names, [given[name] for name in names]


def calling(subject: str, given: dict[str, Any], **keywords: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The operation as a function of its tensors alone, and they."""
    names, tensors = split(given)
    return lambda *at: forward(bilateral_ops, subject, {**given, **dict(zip(names, at))}, **keywords), tensors


def calling_vjp(subject: str, given: dict[str, Any], **keywords: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Its VJP likewise, the gradient coming in last."""
    names, tensors = split(given)
    torch.manual_seed(0)
    grad = torch.randn_like(forward(bilateral_ops, subject, given, **keywords))

    def function(*at: Any) -> Any:
        gradients = backward(bilateral_ops, subject, {**given, **dict(zip(names, at))}, at[-1], **keywords)
        return tuple(gradient for gradient in gradients if gradient is not None)

    return function, [*tensors, grad]


def requiring(tensors: list[Any]) -> list[Any]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def assert_same(got: Any, want: Any) -> None:
    """The same bits."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def options_of(subject: str) -> list[dict[str, Any]]:
    sampled = [{"xy": True}, {"N": 1, "align_corners": True}, {"window": (2, 1, 9, 8)}]
    sampled += [{"N": 2, "rule": "centers", "align_corners": True, "window": (2, 1, 9, 8)}, {"rule": "corners"}]
    return [{}, {"N": 2}, *(sampled if subject in SAMPLED else [])]


def keywords(options: dict[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in ("window", "align_corners") if name in options}
    return found | ({"xy": options["rule"]} if "rule" in options else {})


# ---------------------------------------------------------------------------------------------------------------------
# The formulas
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xp", PEERS, ids=lambda xp: xp.__name__)
@EACH_DIFFERENTIABLE
def test_formulas_equal_the_reference(subject: str, xp: Any) -> None:
    for case in cases_of(subject):
        if case.startswith(("guide on knots", "large", "one long", "wide", "width")):
            continue
        example = backward_example(subject, case, ALL_F64)
        given = {name: PEERS[xp](v) if isinstance(v, np.ndarray) else v for name, v in example.arguments.items()}
        names, arrays = [name for name in given if name not in (*NUMBERS, "index")], []

        def formula(*at: Any, given: Any = given, names: Any = names, example: Any = example) -> Any:
            return _formulas.FORMULAS[subject](xp, **{**given, **dict(zip(names, at))}, **example.keywords)

        arrays = [given[name] for name in names]
        result = formula(*arrays)
        got = from_torch(result) if xp is torch else np.asarray(result)
        assert_forward(got, example.result, example.dtype, case)
        if xp is torch:
            gradients = torch.func.vjp(formula, *arrays)[1](to_torch(example.grad))
            for name, got in zip(names, gradients):
                want = getattr(example.gradients, name)
                assert_gradient(from_torch(got), want, example.contributions[name], F64, f"{case}: {name}")


@pytest.mark.parametrize("align_corners", [False, True])
def test_formulas_have_the_slopes_of_the_reference_at_the_kinks(align_corners: bool) -> None:
    cells = 5 if align_corners else 4
    inside = np.arange(cells) / (cells - 1) if align_corners else (np.arange(cells) + 0.5) / cells
    guide = np.concatenate([inside, [-1, 0, 1, 2, np.inf, -np.inf]])[None]
    grid = np.random.default_rng(0).standard_normal((2, 3, cells, 2))
    want = reference.slice_vjp(grid, guide, np.ones((*guide.shape, 2)), align_corners=align_corners)

    def formula(grid: Any, guide: Any) -> Any:
        return _formulas.slice(torch, grid, guide, align_corners=align_corners)

    pull = torch.func.vjp(formula, to_torch(grid), to_torch(guide))[1]
    got = pull(torch.ones(*guide.shape, 2, dtype=torch.float64))
    np.testing.assert_allclose(got[0], want.grid, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got[1], want.guide, rtol=1e-12, atol=1e-12)


def test_formulas_let_nan_pass() -> None:
    guide = torch.full((2, 3), 0.5)
    guide[0, 1] = torch.nan
    nan = torch.isnan(_formulas.slice(torch, torch.ones(2, 2, 2, 1), guide))[..., 0]
    assert_same(nan, torch.isnan(guide))
    image = torch.full((2, 3, 3), 0.5)
    image[0, 1, 0] = torch.nan
    for subject in ("guide_curves", "guide_nn", "guide_luma"):
        given = {**tensors_of(subject, ALL_F32), "image": image}
        assert_same(torch.isnan(_formulas.FORMULAS[subject](torch, **given)), torch.isnan(guide))


@pytest.mark.parametrize("dtypes", [Dtypes(F16, F32, F16), Dtypes(BF16, BF16, BF16), Dtypes(U8, F32, F32)], ids=str)
def test_formulas_compute_small_kinds_in_float32(dtypes: Dtypes) -> None:
    given = tensors_of("slice_apply", dtypes)
    got = _formulas.slice_apply(torch, **given)
    image = given["image"]
    wide = {k: v / 255 if v.dtype is torch.uint8 else v.float() for k, v in given.items()}
    want = _formulas.slice_apply(torch, **wide)
    assert_same(got, want.to(image.dtype) if image.is_floating_point() else want)


# ---------------------------------------------------------------------------------------------------------------------
# Autograd
# ---------------------------------------------------------------------------------------------------------------------


@EACH_DIFFERENTIABLE
def test_gradcheck_and_gradgradcheck(subject: str) -> None:
    for options in options_of(subject):
        function, tensors = calling(subject, tensors_of(subject, **options), **keywords(options))
        leaves = requiring(tensors)
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_gradcheck_can_fail() -> None:
    function, tensors = calling("slice", tensors_of("slice"))

    def halved(grid: Any, guide: Any) -> Any:
        return function(grid, guide) + function(grid.detach(), guide)

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(halved, requiring(tensors), fast_mode=True)


@EACH_DIFFERENTIABLE
def test_autograd_gives_the_vjps_bits(subject: str) -> None:
    dtypes = [ALL_F32, Dtypes(BF16, BF16, BF16)]
    if subject in ("slice_apply", "apply", "guide_curves", "guide_nn"):
        dtypes += [Dtypes(F16, F32, F32), Dtypes(U8, F32, F32)]
    for each, options in itertools.product(dtypes, options_of(subject)):
        given = tensors_of(subject, each, **options)
        function, tensors = calling(subject, given, **keywords(options))
        leaves = [t.requires_grad_() if t.is_floating_point() else t for t in tensors]
        result = function(*leaves)
        if not result.is_floating_point():
            assert not result.requires_grad
            continue
        grad = torch.randn_like(result)
        wanted = [t for t in leaves if t.requires_grad]
        got = torch.autograd.grad(result, wanted, grad)
        with torch.no_grad():
            want = backward(bilateral_ops, subject, given, grad, **keywords(options))
        assert_same(list(got), [gradient for gradient in want if gradient is not None])


@EACH_DIFFERENTIABLE
def test_what_autograd_alone_records_does_without_the_dispatcher(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject, ALL_F32))
    leaves, name = requiring(tensors), subject.partition("(")[0]
    result = function(*leaves)
    assert type(result.grad_fn).__name__ == f"{name}_of_autogradBackward"
    seen = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(called)
            return called(*args, **(kwargs or {}))

    with Watching():
        again = function(*leaves)
    assert getattr(torch.ops.bilateral_ops, name).default in seen
    assert_same(again, result)


def test_a_tensor_that_was_changed_since_has_no_gradient() -> None:
    grid, guide, image = tensors_of("slice_apply").values()
    result = bilateral_ops.slice_apply(grid.requires_grad_(), guide, image)
    image *= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors_of("slice_apply")
    given["guide"].requires_grad_()
    seen = []
    run = framework.run
    monkeypatch.setattr(
        framework, "run", lambda op, kernel, given, device: (seen.append(given), run(op, kernel, given, device))
    )
    forward(bilateral_ops, "slice_apply", given).sum().backward()
    assert [gradient is not None for gradient in seen[-1][:4]] == [False, True, False, False]


def test_a_guide_of_an_integer_image_trains_its_parameters() -> None:
    given = tensors_of("guide_curves", Dtypes(U8, F32, F32))
    given["ccm"].requires_grad_()
    forward(bilateral_ops, "guide_curves", given).sum().backward()
    assert given["ccm"].grad.abs().sum() > 0


def test_channels_first_images_are_read_where_they_lie() -> None:
    given = tensors_of("slice_apply", ALL_F32, N=2)
    planar = given["image"].movedim(-1, 1).contiguous().requires_grad_()
    grid = given["grid"].requires_grad_()
    result = bilateral_ops.slice_apply(grid, given["guide"], planar.movedim(1, -1))
    result.square().sum().backward()
    other = given["image"].clone().requires_grad_()
    want = bilateral_ops.slice_apply(grid.detach(), given["guide"], other)
    want.square().sum().backward()
    assert_same(result, want)
    assert_same(planar.grad.movedim(1, -1), other.grad)
    assert result.is_contiguous()


def test_numbers_and_parameters_are_recorded() -> None:
    given = {**tensors_of("guide_nn", ALL_F32), "b2": 0.25}
    given["w1"] = torch.nn.Parameter(given["w1"])
    result = forward(bilateral_ops, "guide_nn", given)
    assert type(result) is torch.Tensor
    (got,) = torch.autograd.grad(result.sum(), given["w1"])
    assert_same(got, backward(bilateral_ops, "guide_nn", given, torch.ones_like(result)).w1.detach())


def test_out_is_refused_while_autograd_records() -> None:
    given = tensors_of("slice_apply")
    sentence = (
        r"slice_apply: out must be None while autograd records, which can't follow what is written into a tensor\."
    )
    with pytest.raises(RuntimeError, match=sentence):
        forward(bilateral_ops, "slice_apply", {**given, "grid": given["grid"].requires_grad_()}, out=given["image"])
    given["grid"].requires_grad_(False)
    with pytest.raises(RuntimeError, match=sentence):
        forward(bilateral_ops, "slice_apply", given, out=torch.zeros_like(given["image"], requires_grad=True))
    out = {"grid": torch.zeros_like(given["grid"], requires_grad=True)}
    with pytest.raises(RuntimeError, match="slice_apply_vjp: out must be None while autograd records"):
        backward(bilateral_ops, "slice_apply", given, given["image"], out=out)
    with torch.no_grad():
        assert forward(bilateral_ops, "slice_apply", given, out=given["image"]) is given["image"]


@pytest.mark.parametrize("out", [np.zeros((3, 4, 3), np.float32), [], "out"], ids=lambda out: type(out).__name__)
def test_out_that_is_no_tensor_is_refused(out: Any) -> None:
    given = tensors_of("slice_apply", ALL_F32)
    with pytest.raises(TypeError, match="slice_apply: out must be"):
        forward(bilateral_ops, "slice_apply", given, out=out)
    with pytest.raises(TypeError, match=r"slice_apply_vjp: out\['grid'\] must be"):
        backward(bilateral_ops, "slice_apply", given, given["image"], out={"grid": out})


@pytest.mark.parametrize("subject", ["enhance(curves)", "enhance(nn)", "enhance(luma)"])
def test_enhance_has_no_gradient(subject: str) -> None:
    given = tensors_of(subject)
    grid = given["grid"].clone().requires_grad_()
    sentence = (
        r"^enhance: no tensor may require a gradient, or have a tangent, as it has neither; call a guide_\* operation "
        r"and slice_apply, or pass detached tensors\.$"
    )
    with pytest.raises(RuntimeError, match=sentence):
        forward(bilateral_ops, subject, {**given, "grid": grid})
    parameters = [*fields(given["guide"]).values()]
    with pytest.raises(RuntimeError, match=sentence):
        torch.ops.bilateral_ops.enhance(grid, given["image"], parameters, given["guide"].kind)
    along = (torch.ones_like(grid),)
    for function in (
        lambda g: forward(bilateral_ops, subject, {**given, "grid": g}),
        lambda g: torch.ops.bilateral_ops.enhance(g, given["image"], parameters, given["guide"].kind),
        lambda g: torch.vmap(lambda scale: forward(bilateral_ops, subject, {**given, "grid": scale * g}))(
            grid[:2, 0, 0]
        ),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            torch.func.jvp(function, (grid.detach(),), along)
        with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=sentence):
            function(torch.autograd.forward_ad.make_dual(grid.detach(), *along))
    with torch.no_grad():
        assert not forward(bilateral_ops, subject, {**given, "grid": grid}).requires_grad
    want = forward(bilateral_ops, subject, {**given, "grid": grid.detach()})
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(grid, *along)
        assert_same(forward(bilateral_ops, subject, {**given, "grid": dual.detach()}), want)


@pytest.mark.parametrize("subject", ["enhance(curves)", "enhance(nn)", "enhance(luma)"])
def test_enhance_beside_what_is_differentiated_forward(subject: str) -> None:
    given = tensors_of(subject, ALL_F32)
    constant, one = forward(bilateral_ops, subject, given), torch.ones(())
    for product in (
        torch.func.jvp(lambda scale: scale * forward(bilateral_ops, subject, given), (one,), (one,))[1],
        torch.func.jacfwd(lambda scale: scale * forward(bilateral_ops, subject, given))(one),
    ):
        assert_same(product, constant)
    images = torch.stack([given["image"], given["image"].flip(0)])

    def mapped(scale: Any) -> Any:
        return scale * torch.vmap(lambda image: forward(bilateral_ops, subject, {**given, "image": image}))(images)

    within = torch.vmap(
        lambda image: torch.func.jvp(
            lambda scale: scale * forward(bilateral_ops, subject, {**given, "image": image}), (one,), (one,)
        )[1]
    )(images)
    assert_same(torch.func.jvp(mapped, (one,), (one,))[1], mapped(one))
    assert_same(within, mapped(one))
    with torch.autograd.forward_ad.dual_level():
        out = torch.empty_like(constant)
        assert forward(bilateral_ops, subject, given, out=out) is out
        assert_same(out, constant)
        dual = torch.autograd.forward_ad.make_dual(torch.zeros_like(constant), torch.ones_like(constant))
        with pytest.raises(RuntimeError, match="enhance: out must be None while PyTorch differentiates forward"):
            forward(bilateral_ops, subject, given, out=dual)


@pytest.mark.parametrize("kind", ["nested", "sparse", "rows", "mkldnn", "uninitialized"])
def test_what_cannot_be_written_is_refused_at_a_level_of_forward_mode(kind: str) -> None:
    image = torch.rand(3, 4, 3)
    make, _, sentence = UNUSABLE[kind]
    with torch.autograd.forward_ad.dual_level(), pytest.raises(TypeError, match=re.escape(sentence.format("out"))):
        bilateral_ops.guide_luma(image, out=make(torch.rand(3, 4)))


def test_a_plain_call_stays_away_from_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors_of("slice_apply")
    monkeypatch.setattr(framework, "_operators", {})
    forward(bilateral_ops, "slice_apply", given)
    with pytest.raises(KeyError):
        forward(bilateral_ops, "slice_apply", {**given, "grid": given["grid"].requires_grad_()})


# ---------------------------------------------------------------------------------------------------------------------
# The formulation with grid_sample
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject", ["slice", "slice_apply", "guide_curves", "guide_nn", "guide_luma", "total_variation"]
)
def test_the_formulation_with_grid_sample_agrees(subject: str) -> None:
    peer = pytest.importorskip("bilateral_ops.bench._torch")._FORWARD[subject]
    options = {"N": 2} if subject == "total_variation" else {}
    example = backward_example(subject, "batched" if options else "plain", ALL_F64)
    names = list(example.arguments)
    leaves = requiring([to_torch(value) for value in example.arguments.values()])
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        want = peer(**dict(zip(names, leaves)))
    finally:
        torch.set_default_dtype(default)
    got = forward(bilateral_ops, subject, dict(zip(names, leaves)))
    limit = tolerance(F64).forward
    torch.testing.assert_close(got, want, rtol=limit, atol=limit)
    grad = to_torch(example.grad)
    for name, mine, theirs in zip(names, *(torch.autograd.grad(result, leaves, grad) for result in (got, want))):
        assert_gradient(mine.numpy(), theirs.numpy(), example.contributions[name], F64, name)


# ---------------------------------------------------------------------------------------------------------------------
# torch.func, forward mode, vmap
# ---------------------------------------------------------------------------------------------------------------------


@EACH
def test_vmap(subject: str) -> None:
    for options in ({}, {"N": 2}):
        function, tensors = calling(subject, tensors_of(subject, ALL_F32, **options))
        each = [[factor * tensor for tensor in tensors] for factor in (1, 0.9, 0.8)]
        want = torch.stack([function(*member) for member in each])
        for axis in (0, -1):
            stacked = [torch.stack(members, axis) for members in zip(*each)]
            assert_same(torch.vmap(function, in_dims=axis)(*stacked), want)
        for mapped in range(len(tensors)):
            at = [0 if i == mapped else None for i in range(len(tensors))]
            some = [torch.stack(members) if d == 0 else members[0] for members, d in zip(zip(*each), at)]
            alone = [[s[j] if d == 0 else s for s, d in zip(some, at)] for j in range(3)]
            got = torch.vmap(function, in_dims=tuple(at))(*some)
            assert_same(got, torch.stack([function(*member) for member in alone]))


@pytest.mark.parametrize("N", [None, 2], ids=["unbatched", "batched"])
@EACH
def test_vmap_over_nothing(subject: str, N: int | None) -> None:
    """Over an axis of no members: of all tensors, of one; and the gradients."""
    plain = arguments(subject, ALL_F32, N=N)
    given = {name: to_torch(array) for name, array in arrays(plain).items()}

    def call(changed: dict[str, Any]) -> Any:
        return forward(bilateral_ops, subject, replaced(plain, **given | changed))

    want = call({})
    for names in ([*given], *([name] for name in given)):
        mapped = {name: given[name].expand(0, *given[name].shape) for name in names}
        assert torch.func.vmap(call)(mapped).shape == (0, *want.shape)
        if subject in DIFFERENTIABLE:
            gradients = torch.func.vmap(torch.func.grad(lambda changed: call(changed).sum()))(mapped)
            assert {name: gradient.shape for name, gradient in gradients.items()} == {
                name: (0, *given[name].shape) for name in names
            }


def test_vmap_over_a_guide_records_parameters() -> None:
    given = tensors_of("enhance(nn)", ALL_F32)
    biases = torch.linspace(-1, 1, 3)

    def function(b2: Any) -> Any:
        guide = bilateral_ops.NNGuide(**{**fields(given["guide"]), "b2": b2})
        return bilateral_ops.enhance(given["grid"], guide, given["image"])

    assert_same(torch.vmap(function)(biases), torch.stack([function(b) for b in biases]))


@EACH_DIFFERENTIABLE
def test_vmap_of_vjps(subject: str) -> None:
    for options in ({}, {"N": 2}):
        function, tensors = calling_vjp(subject, tensors_of(subject, ALL_F32, **options))
        each = [[factor * tensor for tensor in tensors] for factor in (1, 0.9)]
        want = [torch.stack(members) for members in zip(*(function(*member) for member in each))]
        assert_same(list(torch.vmap(function)(*(torch.stack(members) for members in zip(*each)))), want)
        # An argument that all share has a gradient for each of them.
        at = (None,) * (len(tensors) - 1) + (0,)
        got = torch.vmap(function, in_dims=at)(*tensors[:-1], torch.stack([tensors[-1], 2 * tensors[-1]]))
        want = [torch.stack(g) for g in zip(function(*tensors), function(*tensors[:-1], 2 * tensors[-1]))]
        torch.testing.assert_close(list(got), want)


@EACH_DIFFERENTIABLE
def test_both_modes_of_torch_func_agree(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject))
    everything = tuple(range(len(tensors)))
    reverse = torch.func.jacrev(function, everything)(*tensors)
    torch.testing.assert_close(torch.func.jacfwd(function, everything)(*tensors), reverse)
    function, tensors = calling_vjp(subject, tensors_of(subject))
    tangents = tuple(torch.randn_like(tensor) for tensor in tensors)
    _, along = torch.func.jvp(function, tuple(tensors), tangents)
    results, pull = torch.func.vjp(function, *tensors)
    cotangents = tuple(torch.randn_like(result) for result in results)
    products = (
        sum((a * b).sum() for a, b in zip(*pair)) for pair in ((along, cotangents), (tangents, pull(cotangents)))
    )
    torch.testing.assert_close(*products)


@EACH_DIFFERENTIABLE
def test_hessians_are_symmetric(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject, H=2, W=2, Gh=2, Gw=2, Gd=2))
    sizes = [tensor.numel() for tensor in tensors]

    def energy(flat: Any) -> Any:
        parts = zip(flat.split(sizes), tensors)
        return function(*(part.view(tensor.shape) for part, tensor in parts)).square().sum()

    hessian = torch.func.hessian(energy)(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    assert hessian.abs().max() > 0
    torch.testing.assert_close(hessian, hessian.T)


@EACH_DIFFERENTIABLE
def test_derivatives_in_chunks(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject, N=2, H=2, W=2, Gh=2, Gw=2, Gd=2))
    everything = tuple(range(len(tensors)))

    def energy(*at: Any) -> Any:
        return function(*at).square().sum()

    assert_same(
        torch.func.jacrev(function, everything, chunk_size=3)(*tensors),
        torch.func.jacrev(function, everything)(*tensors),
    )
    whole = torch.func.hessian(energy, everything)(*tensors)
    chunked = torch.func.jacrev(torch.func.jacrev(energy, everything), everything, chunk_size=5)(*tensors)
    torch.testing.assert_close(chunked, whole)


@EACH_DIFFERENTIABLE
def test_batched_gradients(subject: str) -> None:
    for options in options_of(subject):
        function, tensors = calling(subject, tensors_of(subject, **options), **keywords(options))
        leaves = requiring(tensors)
        result = function(*leaves)
        grads = torch.randn(3, *result.shape, dtype=result.dtype)
        got = torch.autograd.grad(result, leaves, grads, is_grads_batched=True, retain_graph=True)
        each = [torch.autograd.grad(result, leaves, grad, retain_graph=True) for grad in grads]
        assert_same(list(got), [torch.stack(gradients) for gradients in zip(*each)])
        again = torch.autograd.grad(result, leaves, grads, is_grads_batched=True, create_graph=True)
        assert_same([gradient.detach() for gradient in again], list(got))
        assert all(gradient.requires_grad for gradient in again) or len(leaves) == 1  # linear in the one
    assert torch.autograd.gradcheck(function, leaves, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, check_batched_grad=True, fast_mode=True)


@EACH_DIFFERENTIABLE
def test_vectorized_jacobians(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject, H=2, W=2, Gh=2, Gw=2, Gd=2))
    at = tuple(tensors)
    for strategy in ("reverse-mode", "forward-mode"):
        got = torch.autograd.functional.jacobian(function, at, vectorize=True, strategy=strategy)
        torch.testing.assert_close(got, torch.autograd.functional.jacobian(function, at))

    def energy(*at: Any) -> Any:
        return function(*at).square().sum()

    hessian = torch.autograd.functional.hessian(energy, at, vectorize=True)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(energy, at))


@EACH_DIFFERENTIABLE
def test_vectorized_jacobians_of_vjps(subject: str) -> None:
    given = tensors_of(subject, H=2, W=2, Gh=2, Gw=2, Gd=2)
    function, tensors = calling_vjp(subject, given)
    at = tuple(tensors)

    def gradients(*at: Any) -> Any:
        return torch.func.vjp(calling(subject, given)[0], *at[:-1])[1](at[-1])

    want = torch.autograd.functional.jacobian(function, at)
    for call in (function, calling_operator(subject, given, vjp=True), gradients):
        got = torch.autograd.functional.jacobian(call, at, vectorize=True, strategy="forward-mode")
        torch.testing.assert_close(got, want)
    checks = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, requiring(tensors), **checks, fast_mode=True)


def test_batches_of_batches_of_gradients() -> None:
    given = tensors_of("slice_apply", N=2)
    leaves = requiring(split(given)[1])
    result = bilateral_ops.slice_apply(*leaves)
    grads = torch.randn(2, 3, *result.shape, dtype=result.dtype)

    def pulled(outer: Any, inner: Any) -> Any:
        found = torch.autograd.grad(result, leaves, outer * inner, retain_graph=True)
        return tuple(gradient.sum(tuple(range(1, gradient.ndim))) for gradient in found)

    def mapped(outer: Any) -> Any:
        return torch._vmap_internals._vmap(lambda inner: pulled(outer, inner), 0)(grads[0])

    got = torch._vmap_internals._vmap(mapped, 0)(grads[:, 0])
    want = [[pulled(outer, inner) for inner in grads[0]] for outer in grads[:, 0]]
    for i, gradient in enumerate(got):
        torch.testing.assert_close(gradient, torch.stack([torch.stack([p[i] for p in row]) for row in want]))


def test_out_is_refused_while_autograd_maps() -> None:
    given = tensors_of("slice")
    sentence = r"slice: out must be None while autograd maps the call, which can't follow"

    def call(guide: Any) -> Any:
        with pytest.raises(RuntimeError, match=sentence):
            bilateral_ops.slice(given["grid"], guide, out=torch.empty(3, 4, 2))
        return guide

    torch._vmap_internals._vmap(call)(given["guide"][None])


@EACH
def test_functionalize(subject: str) -> None:
    function, tensors = calling(subject, tensors_of(subject, N=2))
    assert_same(torch.func.functionalize(function)(*tensors), function(*tensors))
    stacked = [torch.stack([tensor, tensor]) for tensor in tensors]
    mapped = torch.vmap(function)
    assert_same(torch.func.functionalize(mapped)(*stacked), mapped(*stacked))
    assert_same(torch.vmap(torch.func.functionalize(function))(*stacked), mapped(*stacked))
    if subject in DIFFERENTIABLE:
        gradient = torch.func.grad(lambda *at: function(*at).square().sum(), tuple(range(len(tensors))))
        assert_same(torch.func.functionalize(gradient)(*tensors), gradient(*tensors))
        traced = torch.fx.experimental.proxy_tensor.make_fx(torch.func.functionalize(gradient))(*tensors)
        name = operation(subject)
        assert f"bilateral_ops.{name}.default" in traced.code
        assert f"bilateral_ops.{name}_vjp.default" in traced.code
        assert_same(traced(*tensors), gradient(*tensors))


def test_operators_are_transformed_as_the_functions_are() -> None:
    """As torch.func finds them in exported programs."""
    grid, guide = tensors_of("slice").values()
    operator = torch.ops.bilateral_ops.slice
    stacked = torch.stack([grid, 2 * grid])
    assert_same(
        torch.vmap(operator, (0, None))(stacked, guide), torch.vmap(bilateral_ops.slice, (0, None))(stacked, guide)
    )
    for f in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
        got, want = (
            f(lambda *at, call=call: call(*at).square().sum(), (0, 1))(grid, guide)
            for call in (operator, bilateral_ops.slice)
        )
        torch.testing.assert_close(got, want)


def calling_operator(subject: str, given: dict[str, Any], vjp: bool = False, **keywords: Any) -> Callable[..., Any]:
    """The operator, or that of the VJP, as a function of the operation's tensors alone, the gradient last."""
    operator = getattr(torch.ops.bilateral_ops, f"{subject}_vjp" if vjp else subject).default
    taken = [argument.name for argument in operator._schema.arguments]
    names, _ = split(given)
    options = {"rule" if key == "xy" else key: value for key, value in keywords.items()}

    def function(*at: Any) -> Any:
        values = {**dict.fromkeys({"xy", "index"} & {*taken}), **given, **options, **dict(zip(names, at))}
        values = {name: torch.tensor(v, dtype=at[0].dtype) if isinstance(v, float) else v for name, v in values.items()}
        if vjp:
            values["grad"] = at[-1]
        result = operator(**{name: value for name, value in values.items() if name in taken})
        return tuple(result) if vjp else result

    return function


def tangents_of(function: Callable[..., Any], tensors: list[Any], along: list[Any]) -> list[Any]:
    """Of dual numbers, zeros where there is none."""
    with torch.autograd.forward_ad.dual_level():
        results = function(*map(torch.autograd.forward_ad.make_dual, tensors, along))
        results = results if isinstance(results, tuple) else (results,)
        pairs = [torch.autograd.forward_ad.unpack_dual(result) for result in results]
        return [torch.zeros_like(primal) if tangent is None else tangent for primal, tangent in pairs]


@EACH_DIFFERENTIABLE
def test_operators_carry_tangents_as_the_functions_do(subject: str) -> None:
    for options, vjp in itertools.product(options_of(subject), (False, True)):
        given = tensors_of(subject, **options)
        function, tensors = calling(subject, given, **keywords(options))
        if vjp:
            function, tensors = calling_vjp(subject, given, **keywords(options))
        operator = calling_operator(subject, given, vjp, **keywords(options))
        torch.manual_seed(1)
        along = [torch.randn_like(tensor) for tensor in tensors]
        want = tangents_of(function, tensors, along)
        assert max(tangent.abs().max() for tangent in want) > 0

        def together(call: Callable[..., Any], tensors: Any = tensors, along: Any = along) -> list[Any]:
            found = torch.func.jvp(call, tuple(tensors), tuple(along))[1]
            return list(found) if isinstance(found, tuple) else [found]

        def mapped(*at: Any, call: Any = operator) -> Any:
            return torch.vmap(lambda scale: call(at[0] * scale, *at[1:]))(at[0].new_ones(2))

        torch.testing.assert_close(tangents_of(operator, tensors, along), want)
        torch.testing.assert_close(together(function), want)
        torch.testing.assert_close(together(operator), want)
        torch.testing.assert_close([tangent[1] for tangent in together(mapped)], want)


def test_operators_tangents_come_with_a_graph_where_one_is_asked_for() -> None:
    tensors = [*tensors_of("slice").values()]
    grad = torch.ones_like(bilateral_ops.slice(*tensors))
    operator = torch.ops.bilateral_ops.slice_vjp
    with torch.autograd.forward_ad.dual_level():
        for requires in (False, True):
            leaves = [tensor.clone().requires_grad_(requires) for tensor in tensors]
            grid = torch.autograd.forward_ad.make_dual(leaves[0], torch.ones_like(leaves[0]))
            assert [r.requires_grad for r in operator(grid, leaves[1], None, None, grad)] == [requires] * 2
            with torch.no_grad():
                assert not any(r.requires_grad for r in operator(grid, leaves[1], None, None, grad))


def test_vjps_decomposed_above_autograd_have_a_graph() -> None:
    function, tensors = calling_vjp("slice", tensors_of("slice"))
    leaves = requiring(tensors)

    def twice(*at: Any) -> Any:
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in function(*at)), at)

    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    traced = make_fx(twice, decomposition_table=framework.decompositions(), pre_dispatch=True)(*leaves)
    assert not any("bilateral_ops" in str(node.target) for node in traced.graph.nodes)
    torch.testing.assert_close(traced(*leaves), twice(*leaves))


def test_operators_refuse_what_no_function_can_be_given() -> None:
    operators = torch.ops.bilateral_ops
    for subject in SAMPLED:
        if subject not in DIFFERENTIABLE:
            continue
        given = tensors_of(subject, xy=True)
        grad = torch.ones_like(forward(bilateral_ops, subject, given))
        for vjp in (False, True):
            name = subject + "_vjp" * vjp
            with pytest.raises(ValueError, match=f"^{name}: rule must be None where xy is given, got 'corners'.$"):
                calling_operator(subject, given, vjp, rule="corners")(*split(given)[1], *[grad] * vjp)
    given = tensors_of("enhance(nn)")
    parameters = [*fields(given["guide"]).values()]
    with pytest.raises(ValueError, match=r"^enhance: kind must be 'curves', 'nn' or 'luma', got 'none'\.$"):
        operators.enhance(given["grid"], given["image"], parameters, "none")
    with pytest.raises(
        ValueError, match=r"^enhance: parameters must be the 4 fields of NNGuide \(w1, b1, w2, b2\), got 3\.$"
    ):
        operators.enhance(given["grid"], given["image"], parameters[:3], "nn")
    with pytest.raises(ValueError, match=r"^enhance: parameters must be empty, got 4\.$"):
        operators.enhance(given["grid"], given["image"], parameters, "luma")


def test_dual_numbers() -> None:
    function, tensors = calling("slice_apply", tensors_of("slice_apply"))
    assert torch.autograd.gradcheck(function, requiring(tensors), check_forward_ad=True, fast_mode=True)


def test_what_is_rounded_has_no_tangent() -> None:
    given = tensors_of("slice_apply", Dtypes(U8, F32, F32))
    grid = given.pop("grid")

    def function(grid: Any) -> Any:
        return forward(bilateral_ops, "slice_apply", {"grid": grid, **given})

    result, _ = torch.func.jvp(function, (grid,), (grid,))
    assert_same(result, function(grid))


def test_the_packages_gradcheck_takes_a_function_of_ones_own() -> None:
    given = tensors_of("slice")

    def mine(grid: Any, guide: Any) -> Any:
        return bilateral_ops.slice(2 * grid, guide).square()

    report = bilateral_ops.gradcheck(mine, given)
    assert report, report
    assert not bilateral_ops.gradcheck(lambda grid, guide: mine(grid.detach(), guide) + 0 * grid.sum(), given)


# ---------------------------------------------------------------------------------------------------------------------
# Operators, torch.compile, torch.export
# ---------------------------------------------------------------------------------------------------------------------


@EACH
def test_opcheck(subject: str) -> None:
    for options in ({"N": 2}, {"xy": True}) if subject in SAMPLED else ({"N": 2},):
        given = tensors_of(subject, ALL_F32, **options)
        name = operation(subject)
        if name == "enhance":
            parameters = list(fields(given["guide"]).values())
            call = (given["grid"], given["image"], parameters, given["guide"].kind)
            torch.library.opcheck(torch.ops.bilateral_ops.enhance.default, call)
            continue
        at = dict(zip([*split(given)[0], "grad"], requiring(calling_vjp(subject, given)[1])))
        call = tuple(at.get(argument) for argument in OPERATIONS[name].signature.names)
        shape = tuple(list(given[number]) for number in NUMBERS if number in given)
        torch.library.opcheck(getattr(torch.ops.bilateral_ops, name).default, (*call, *shape))
        torch.library.opcheck(getattr(torch.ops.bilateral_ops, f"{name}_vjp").default, (*call, at["grad"]))


@EACH
def test_compile(subject: str) -> None:
    given = tensors_of(subject, ALL_F32, N=2)
    torch._dynamo.reset()
    function, tensors = calling(subject, given)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*tensors), function(*tensors))
    if subject not in DIFFERENTIABLE:
        return
    leaves = requiring(tensors)
    got, want = compiled(*leaves), function(*leaves)
    assert_same(got, want)
    grad = torch.randn_like(want)
    assert_same(torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad))
    function, tensors = calling_vjp(subject, given)
    assert_same(torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors), function(*tensors))


@pytest.mark.parametrize("subject", [*SAMPLED, *GUIDES])
def test_compile_and_vmap_with_a_rule_of_pixels(subject: str) -> None:
    torch._dynamo.reset()
    for rule in ({"xy": "centers", "align_corners": True}, {"xy": "corners"}):
        function, tensors = calling(subject, tensors_of(subject, ALL_F32, N=2), **rule)
        want = function(*tensors)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_same(compiled(*tensors), want)
        if subject not in SAMPLED:
            continue
        leaves = requiring(tensors)
        grad = torch.randn_like(want)
        expected = torch.autograd.grad(function(*leaves), leaves, grad)
        assert_same(torch.autograd.grad(compiled(*leaves), leaves, grad), expected)
        pull = torch.func.vjp(torch.vmap(function), *(tensor[None] for tensor in tensors))
        assert_same(pull[0], want[None])
        assert_same(pull[1](grad[None]), tuple(gradient[None] for gradient in expected))
        tangents = tuple(map(torch.randn_like, tensors))
        _, tangent = torch.func.jvp(function, tuple(tensors), tangents)
        dots = sum((gradient * along).sum() for gradient, along in zip(expected, tangents))
        torch.testing.assert_close((tangent * grad).sum(), dots, rtol=1e-4, atol=1e-4)


def test_compile_with_keywords_and_sizes_that_change() -> None:
    torch._dynamo.reset()
    grid = torch.rand(3, 4, 5, 3, 4, requires_grad=True)

    def function(guide: Any, image: Any) -> Any:
        tile = bilateral_ops.slice_apply(grid, guide, image, window=(1, 2, 64, 64), align_corners=True)
        gradients = bilateral_ops.slice_apply_vjp(grid, guide, image, tile, wrt=("image",))
        assert gradients.grid is None
        return tile + gradients.image

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width in ((5, 6), (7, 9), (11, 4)):
        guide, image = torch.rand(height, width), torch.rand(height, width, 3)
        got, want = compiled(guide, image), function(guide, image)
        assert_same(got, want)
        torch.testing.assert_close(*(torch.autograd.grad(r.square().sum(), grid) for r in (got, want)))


@pytest.mark.parametrize("subject", ["slice", "guide_nn"])
def test_compile_forward_mode(subject: str) -> None:
    torch._dynamo.reset()
    function, tensors = calling(subject, tensors_of(subject))
    along = tuple(map(torch.randn_like, tensors))

    def forward_mode(*at: Any) -> Any:
        return torch.func.jvp(function, at, along)[1], torch.func.hessian(lambda *at: function(*at).square().sum())(*at)

    compiled = torch.compile(forward_mode, fullgraph=True, backend="aot_eager")
    got, want = compiled(*tensors), forward_mode(*tensors)
    assert min(found.abs().max() for found in want) > 0
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("subject", ["slice", "guide_nn"])
def test_compile_what_opens_a_level_of_forward_mode(
    subject: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in (calling, calling_vjp):
        monkeypatch.setattr(framework._graphs, "open_levels", False)
        torch._dynamo.reset()
        function, tensors = calls(subject, tensors_of(subject))
        along = [*map(torch.randn_like, tensors)]
        want = tangents_of(function, tensors, along)
        got = torch.compile(tangents_of, fullgraph=True, backend=backend)(function, tensors, along)
        assert min(found.abs().max() for found in want) > 0
        torch.testing.assert_close(got, want)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this PyTorch does not say that it exports")
@pytest.mark.parametrize("function", [bilateral_ops.guide_luma, torch.ops.bilateral_ops.guide_luma])
def test_export_refuses_what_opens_a_level_of_forward_mode(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework._graphs, "open_levels", False)

    class Layer(torch.nn.Module):
        def forward(self, image: Any, along: Any) -> Any:
            return tangents_of(function, [image], [along])

    given = torch.rand(2, 3, 3), torch.rand(2, 3, 3)
    with pytest.raises(RuntimeError, match=r"guide_luma: no tensor may have a tangent .*; use torch\.func\.jvp\."):
        torch.export.export(Layer(), given, strict=False)


def test_compile_with_numbers() -> None:
    torch._dynamo.reset()
    function, tensors = calling("guide_nn", {**tensors_of("guide_nn", ALL_F32), "b2": 0.25})
    assert_same(torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors), function(*tensors))


def test_compile_by_inductor() -> None:
    torch._dynamo.reset()

    def function(grid: Any, planar: Any) -> Any:
        image = planar.movedim(0, -1) * 0.9
        return bilateral_ops.slice_apply(grid, bilateral_ops.guide_luma(image), image).square().mean()

    grid, planar = requiring([torch.rand(3, 4, 5, 3, 4), torch.rand(3, 8, 9)])
    got, want = torch.compile(function, fullgraph=True)(grid, planar), function(grid, planar)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(result, (grid, planar)) for result in (got, want)))


@pytest.mark.parametrize("looked_for", [False, True], ids=["", "looked for"])
@pytest.mark.parametrize("order", ["bilateral_ops, torch", "torch._dynamo, bilateral_ops"])
def test_the_first_call_may_be_a_compiled_one(order: str, looked_for: bool) -> None:
    code = f"""
import {order}, sys, importlib.util
if {looked_for}: importlib.util.find_spec("torch._dynamo")
assert ("torch._dynamo" in sys.modules) == ("_dynamo" in {order!r})
compiled = torch.compile(lambda image: bilateral_ops.guide_luma(image), fullgraph=True, backend="eager")
print(*compiled(torch.ones(1, 2, 3)).shape)
"""
    finished = python(code)
    assert finished.stdout.split() == ["1", "2"], finished.stderr


@EACH
def test_export(subject: str) -> None:
    given = tensors_of(subject, ALL_F32, N=2)
    function, tensors = calling(subject, given)

    class Module(torch.nn.Module):
        def forward(self, tensors: Any) -> Any:
            return function(*tensors)

    exported = torch.export.export(Module(), (tensors,))
    assert f"torch.ops.bilateral_ops.{operation(subject)}.default" in exported.graph_module.code
    assert_same(exported.module()(tensors), function(*tensors))


def test_export_of_any_size() -> None:
    layer = framework.SliceApplyModule(framework.CurvesGuideModule(knots=4))
    grid, image = torch.rand(1, 3, 4, 5, 3, 4), torch.rand(1, 6, 7, 3)
    height, width = torch.export.Dim("height"), torch.export.Dim("width")
    sizes = {"grid": None, "image": {1: height, 2: width}}
    exported = torch.export.export(layer, (grid, image), dynamic_shapes=sizes).module()
    image = torch.rand(1, 9, 33, 3)
    assert_same(exported(grid, image), layer(grid, image))


def test_meta_tensors_are_checked_and_described() -> None:
    given = {name: tensor.to("meta") for name, tensor in tensors_of("slice_apply", ALL_F32).items()}
    result = forward(bilateral_ops, "slice_apply", given)
    assert (result.device.type, result.shape, result.dtype) == ("meta", (3, 4, 3), torch.float32)
    gradients = backward(bilateral_ops, "slice_apply", given, result)
    assert (gradients.grid.shape, gradients.xy) == (given["grid"].shape, None)
    with pytest.raises(ValueError, match=r"slice_apply: image must have shape"):
        forward(bilateral_ops, "slice_apply", {**given, "image": given["image"][1:]})


def test_operators_check_their_arguments() -> None:
    given = tensors_of("slice", ALL_F32)
    with pytest.raises(TypeError, match=r"slice: guide must be float32 to match grid, got float64\."):
        torch.ops.bilateral_ops.slice(given["grid"], given["guide"].double())


def _freed(tensor: Any) -> Any:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def _escaped(tensor: Any) -> Any:
    found = []

    def kept(member: Any) -> Any:
        found.append(member)
        return member

    torch.func.vmap(kept)(tensor[None])
    return found[0]


_NESTED = "must be a dense tensor, got a nested one; pass its members, {}.unbind(), one by one."
_DENSE = "must be a dense tensor, got {}; pass {{}}.to_dense()."
_IN_MEMORY = "must be a tensor in memory, got one that only stands for its numbers, or whose storage was freed; pass "
_DISPATCHING = "must be a tensor that takes this package's operators, got MaskedTensor, whose __torch_dispatch__ does"

#: Tensors that can't be computed with, and what is said of them: as arguments, and as ``out`` where that differs.
UNUSABLE: dict[str, tuple[Any, str, str]] = {
    "nested": (lambda t: torch.nested.nested_tensor([t.reshape(-1)] * 2), _NESTED, _NESTED),
    "jagged": (lambda t: torch.nested.nested_tensor([t.reshape(-1)] * 2, layout=torch.jagged), _NESTED, _NESTED),
    "sparse": (lambda t: t.to_sparse(), _DENSE.format("sparse_coo"), _DENSE.format("sparse_coo")),
    "rows": (lambda t: t.reshape(1, -1).to_sparse_csr(), _DENSE.format("sparse_csr"), _DENSE.format("sparse_csr")),
    "mkldnn": (lambda t: t.reshape(1, -1).to_mkldnn(), _DENSE.format("_mkldnn"), _DENSE.format("_mkldnn")),
    "negated": (lambda t: torch.complex(t, t).conj().imag, "got a negated view; pass {}.res", "got a negated view; "),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8), ", got quint8.", ", got quint8."),
    "complex": (lambda t: torch.complex(t, t).conj(), ", got complex64.", ", got complex64."),
    "uninitialized": (lambda t: torch.nn.UninitializedBuffer(), "got an uninitialized one; call {}.mat", "got an unin"),
    "functional": (torch._to_functional_tensor, _IN_MEMORY, _IN_MEMORY),
    "freed": (_freed, _IN_MEMORY, _IN_MEMORY),
    "escaped": (_escaped, "got one that torch.func made in a call that is over", "got one that torch.func made in"),
    "masked": (lambda t: torch.masked.masked_tensor(t, t > 0), _DISPATCHING, _IN_MEMORY),
}


def _zero(tensor: Any) -> Any:
    return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)


def _with_its_vjp(subject: str) -> dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]]:
    """The operation, and its VJP: calls of changed tensors, those tensors, and what ``out`` may be."""
    plain = arguments(subject, ALL_F32, N=2)
    given = {name: to_torch(array) for name, array in arrays(plain).items()}

    def call(changed: dict[str, Any], **out: Any) -> Any:
        return forward(bilateral_ops, subject, replaced(plain, **given | changed), **out)

    def call_vjp(changed: dict[str, Any], **out: Any) -> Any:
        changed = dict(changed)
        return backward(bilateral_ops, subject, replaced(plain, **given | changed), changed.pop("grad", grad), **out)

    result = call({})
    grad = torch.rand(result.shape)
    calls = {operation(subject): (call, given, {} if subject == "total_variation" else {"out": result})}
    if subject in DIFFERENTIABLE:
        calls[f"{subject}_vjp"] = (call_vjp, {**given, "grad": grad}, given)
    return calls


@pytest.mark.filterwarnings("ignore")  # of PyTorch: prototypes, and what is to come
@pytest.mark.parametrize("kind", UNUSABLE)
@EACH
def test_tensors_that_hold_no_numbers_are_refused(subject: str, kind: str) -> None:
    """In each place of every operation, by one sentence."""
    make, sentence, out_sentence = UNUSABLE[kind]

    for name, (call, tensors, outs) in _with_its_vjp(subject).items():
        places = [
            (argument.removeprefix("guide."), sentence, {argument: make(t)}, {}) for argument, t in tensors.items()
        ]
        for field, tensor in outs.items():
            made = make(torch.empty_like(tensor))
            label, out = ("out", made) if field == "out" else (f"out['{field}']", {field: made})
            places.append((label, out_sentence, {}, {"out": out}))
        for label, part, changed, out in places:
            with pytest.raises(TypeError) as raised:
                call(changed, **out)
            said = str(raised.value)
            assert said.startswith(f"{name}: {label} must "), said
            assert part.format(label) in said, said
            assert said.endswith("."), said
            assert said.count(". ") == said.count("\n") == 0, said


@EACH
def test_zeros_that_autograd_only_speaks_of_are_zeros(subject: str) -> None:
    for name, (call, tensors, outs) in _with_its_vjp(subject).items():
        for argument, tensor in tensors.items():
            want = call({argument: torch.zeros_like(tensor)})
            assert_same(call({argument: _zero(tensor)}), want)
            if name != "enhance":
                recorded = {
                    argument: _zero(tensor),
                    **{n: t.clone().requires_grad_() for n, t in tensors.items() if n != argument},
                }
                assert_same(call(recorded), want)
            out = {n: torch.empty_like(t) for n, t in outs.items()}
            if out:
                assert_same(call({argument: _zero(tensor)}, out=out if name.endswith("_vjp") else out["out"]), want)
        for field, tensor in outs.items():
            with pytest.raises(TypeError, match="must be a tensor in memory, got one that only stands for"):
                call({}, out=_zero(tensor) if field == "out" else {field: _zero(tensor)})


def test_subclasses() -> None:
    class Plain(torch.Tensor):
        pass

    image = tensors_of("guide_luma")["image"]
    want = bilateral_ops.guide_luma(image)
    for leaf in (image.as_subclass(Plain), image.as_subclass(Plain).requires_grad_()):
        got = bilateral_ops.guide_luma(leaf)
        assert type(got) is torch.Tensor
        assert_same(got.detach(), want)
    fakes = pytest.importorskip("torch._subclasses.fake_tensor")
    fake = fakes.FakeTensorMode().from_tensor(image)
    got = bilateral_ops.guide_luma(fake)
    assert (type(got), got.shape) == (fakes.FakeTensor, want.shape)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traces_hold_the_operator() -> None:
    image = tensors_of("guide_luma")["image"]
    traced = torch.jit.trace(bilateral_ops.guide_luma, image)
    assert_same(traced(2 * image), bilateral_ops.guide_luma(2 * image))


# ---------------------------------------------------------------------------------------------------------------------
# Autocast
# ---------------------------------------------------------------------------------------------------------------------


def test_autocast_makes_floats_of_one_dtype() -> None:
    given = tensors_of("slice_apply", ALL_F32)
    grid = given["grid"].bfloat16().requires_grad_()
    wide = grid.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = bilateral_ops.slice_apply(grid, given["guide"], given["image"])
        byte = (given["image"] * 255).to(torch.uint8)
        assert bilateral_ops.slice_apply(grid.detach(), given["guide"].half(), byte).dtype is torch.uint8
        with pytest.raises(RuntimeError, match=r"slice_apply: out must be None while autocast is on, which"):
            bilateral_ops.slice_apply(grid.detach(), given["guide"], given["image"], out=given["image"].clone())
    want = bilateral_ops.slice_apply(wide, given["guide"], given["image"])
    assert_same(got, want)
    got.sum().backward()
    want.sum().backward()
    assert_same(grid.grad, wide.grad.bfloat16())
    with pytest.raises(TypeError, match=r"slice_apply: grid must be float32 to match image, got bfloat16\."):
        bilateral_ops.slice_apply(grid, given["guide"], given["image"])


@EACH
def test_autocast_of_one_dtype_changes_nothing(subject: str) -> None:
    given = tensors_of(subject, ALL_F32)
    want = forward(bilateral_ops, subject, given)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(forward(bilateral_ops, subject, given), want)
        assert_same(
            forward(
                bilateral_ops,
                subject,
                given,
                **({} if subject == "total_variation" else {"out": torch.empty_like(want)}),
            ),
            want,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Modules
# ---------------------------------------------------------------------------------------------------------------------


def test_guides_begin_as_hdrnets() -> None:
    guide = framework.CurvesGuideModule(channels=3, knots=8)
    noise = guide.ccm - torch.eye(3)
    assert 0 < noise.abs().max() < 1e-3
    torch.testing.assert_close(noise, noise[0, 0].expand(3, 3), rtol=0, atol=1e-6)
    assert_same(guide.shifts.detach(), (torch.arange(8) / 8).expand(3, 8))
    assert guide.slopes.sum(0).tolist() == [3, *[0] * 7]
    assert_same(guide.mix.detach(), torch.full((3,), 1 / 3))
    assert guide.ccm_bias.abs().sum() == guide.mix_bias == 0
    image = torch.rand(4, 5, 3)
    torch.testing.assert_close(guide(image), image.mean(-1), rtol=0, atol=1e-3)

    torch.manual_seed(0)
    network = framework.NNGuideModule(channels=3, features=2000)
    assert network.w1.shape == (2000, 3)
    assert abs(network.w1.std() - (2 / 3) ** 0.5) < 0.02
    assert abs(network.w2.std() - (2 / 2000) ** 0.5) < 0.002
    assert network.b1.abs().sum() == network.b2 == 0


@pytest.mark.parametrize("guide", [None, "CurvesGuideModule", "NNGuideModule"])
def test_modules(guide: str | None) -> None:
    torch.manual_seed(1)
    layer = framework.SliceApplyModule(guide and getattr(framework, guide)(), xy="centers", align_corners=True)
    grid, image = torch.rand(3, 4, 5, 3, 4), torch.rand(6, 7, 3)
    result = layer(grid, image)
    frozen = layer.freeze()
    want = bilateral_ops.enhance(grid, frozen, image, xy="centers", align_corners=True)
    torch.testing.assert_close(result.detach(), want)
    if guide:
        result.sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1)
        assert not torch.equal(layer.freeze().__dict__.popitem()[1], frozen.__dict__.popitem()[1])
    twin = framework.SliceApplyModule(guide and getattr(framework, guide)(), xy="centers", align_corners=True)
    twin.load_state_dict(layer.state_dict())
    for other in (twin, copy.deepcopy(layer)):
        assert_same(other(grid, image).detach(), layer(grid, image).detach())
    assert layer.double()(grid.double(), image.double()).dtype is torch.float64
    assert "xy='centers', align_corners=True" in repr(layer)
    assert guide is None or f"{guide}(channels=3, " in repr(layer)
    assert layer.to("meta")(grid.double().to("meta"), image.double().to("meta")).shape == image.shape


def test_a_guide_of_ones_own_does_not_freeze() -> None:
    layer = framework.SliceApplyModule(torch.nn.Flatten())
    with pytest.raises(TypeError, match=r"freeze: guide must have a freeze method, got Flatten\."):
        layer.freeze()


# ---------------------------------------------------------------------------------------------------------------------
# Other versions, many processes
# ---------------------------------------------------------------------------------------------------------------------


def test_an_old_pytorch_is_refused() -> None:
    code = """
import torch, bilateral_ops
del torch.library.register_autograd
torch.__version__ = "2.3.1"
try:
    bilateral_ops.guide_luma(torch.ones(2, 2, 3))
except RuntimeError as error:
    print(error)
"""
    want = f"bilateral_ops needs PyTorch 2.4 or newer, got 2.3.1; {install('torch')}."
    assert python(code).stdout.strip() == want


class Guides(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        image = torch.full((40, 50, 3), index / 4)
        guide = bilateral_ops.guide_luma(image)
        return bilateral_ops.slice_apply(torch.ones(4, 4, 4, 3, 4), guide, image), os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method: str) -> None:
    code = f"""
import os, torch
from test_torch import Guides
if __name__ == "__main__":
    want = torch.stack([Guides()[i][0] for i in range(4)])
    loader = torch.utils.data.DataLoader(Guides(), 2, num_workers=1, multiprocessing_context={method!r})
    got, processes = zip(*loader)
    assert torch.equal(torch.cat(got), want)
    assert os.getpid() not in torch.cat(processes)
    print("same")
"""
    finished = python(code)
    assert finished.stdout.split() == ["same"], finished.stderr


def fit_guide(rank: int, processes: int, folder: str) -> None:
    """A few steps of one shared guide, each process on its share of four images."""
    torch.manual_seed(0)
    images, grid = torch.rand(4, 12, 13, 3), torch.randn(3, 3, 4, 3, 4)
    layer = framework.SliceApplyModule(framework.CurvesGuideModule(knots=4))
    target = torch.rand(4, 12, 13, 3)
    model = layer
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
        )
        model = torch.nn.parallel.DistributedDataParallel(layer)
    mine = slice(rank, None, processes)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        result = model(grid.expand(4 // processes, *grid.shape), images[mine])
        (result - target[mine]).square().mean().backward()
        optimizer.step()
    torch.save(layer.state_dict(), f"{folder}/{processes}-{rank}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path: Any) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch was built without distributed")
    code = f"""
import torch
from test_torch import fit_guide
if __name__ == "__main__":
    torch.multiprocessing.spawn(fit_guide, (2, {str(tmp_path)!r}), nprocs=2)
"""
    finished = python(code, GLOO_SOCKET_IFNAME="lo")
    assert finished.returncode == 0, finished.stderr
    fit_guide(0, 1, str(tmp_path))
    alone, *shared = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    start = framework.CurvesGuideModule(knots=4).state_dict()
    assert (alone["guide.slopes"] - start["slopes"]).abs().max() > 1e-3
    assert_same(shared[0], shared[1])
    for name, value in alone.items():
        torch.testing.assert_close(shared[0][name], value, msg=name)


@pytest.mark.usefixtures("threads")
def test_a_caller_who_flushes_subnormals_gets_the_same_bits() -> None:
    """After the first call, when there are threads already; and flushes them still, afterwards."""
    bilateral_ops.set_num_threads(4)
    given = arguments("slice_apply", ALL_F32, H=150, W=200, Gd=8)
    tensors = {name: to_torch(value) for name, value in given.items()}
    grad = to_torch(random_like((150, 200, 3), F32) * F32.type(1e-38))
    want = backward(bilateral_ops, "slice_apply", tensors, grad)
    if not torch.set_flush_denormal(True):
        pytest.skip("PyTorch can't flush subnormals here")
    try:
        found = [backward(bilateral_ops, "slice_apply", tensors, grad) for _ in range(20)]
        assert not (torch.full((8,), 1e-38) * 0.5).any()
    finally:
        torch.set_flush_denormal(False)
    for got in found:
        for name in ("grid", "guide", "image"):
            assert_same_bits(from_torch(getattr(got, name)), from_torch(getattr(want, name)), name)
