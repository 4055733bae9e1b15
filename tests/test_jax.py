"""Is it at home in JAX: `jit`, `grad` twice, `vmap`, devices, threads and errors, with the bits of NumPy's results?"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from backends import Through
from cases import (
    ALL_F32,
    ALL_F64,
    DIFFERENTIABLE,
    F32,
    F64,
    GUIDES,
    NUMBERS,
    SAMPLED,
    SANITIZED,
    SUBJECTS,
    U8,
    WINDOW,
    Dtypes,
    arguments,
    arrays,
    assert_same_bits,
    backward,
    clear_of_kinks,
    dtypes_of,
    fields,
    forward,
    indexed,
    python,
    random_like,
    tolerance,
)

import bilateral_ops
from bilateral_ops import gradcheck
from bilateral_ops.ops import OPERATIONS
from bilateral_ops.reference import _formulas

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy
framework = pytest.importorskip("bilateral_ops.frameworks.jax")
check_grads = pytest.importorskip("jax.test_util").check_grads

EVERY = [(subject, dtypes) for subject in SUBJECTS for dtypes in dtypes_of(subject)]
ALL = pytest.mark.parametrize(("subject", "dtypes"), EVERY, ids=[f"{s}-{k}" for s, k in EVERY])
SIZE = {"N": 2, "H": 5, "W": 19}
TINY = {"H": 3, "W": 4, "Gh": 2, "Gw": 3, "Gd": 3}


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """With float64; compiled soon rather than well, which the kernels do not notice."""
    options = ("jax_enable_x64", "jax_disable_most_optimizations")
    before = [jax.config.values[option] for option in options]
    for option in options:
        jax.config.update(option, True)
    yield
    for option, value in zip(options, before):
        jax.config.update(option, value)


THROUGH = Through(jnp.asarray, np.asarray)


def split(subject: str, dtypes: Dtypes = ALL_F64, **options: Any) -> tuple[dict[str, Any], Callable[..., Any]]:
    """JAX arrays by name, those of a guide record too, and the operation as a function of their dict."""
    given = arguments(subject, dtypes, **options)
    if subject in DIFFERENTIABLE and dtypes == ALL_F64:
        given = clear_of_kinks(subject, given)
    record = given.get("guide") if subject in GUIDES else None
    static = {name: value for name, value in given.items() if not isinstance(value, np.ndarray)}
    values = {name.removeprefix("guide."): jnp.asarray(array) for name, array in arrays(given).items()}

    def function(values: dict[str, Any], **keywords: Any) -> Any:
        inside = {name: values[name] for name in fields(record)}
        again = {**static, **values, **({"guide": type(record)(**inside)} if record is not None else {})}
        return forward(bilateral_ops, subject, {name: again[name] for name in given}, **keywords)

    return values, function


def sent(subject: str, dtypes: Dtypes = ALL_F32, **options: Any) -> dict[str, Any]:
    return THROUGH.sent(arguments(subject, dtypes, **options))


def tree_same(got: Any, want: Any) -> None:
    jax.tree.map(assert_same_bits, got, want)


def tree_close(got: Any, want: Any) -> None:
    bound = tolerance(F64).backward
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=bound, atol=bound), got, want)


# ---------------------------------------------------------------------------------------------------------------------
# The same kernels
# ---------------------------------------------------------------------------------------------------------------------


@ALL
def test_results_and_gradients_have_numpys_bits(subject: str, dtypes: Dtypes) -> None:
    variants: list[dict[str, Any]] = [{}, SIZE, {"N": 0}]
    if subject in SAMPLED:
        variants += [{"xy": True, "align_corners": True}]
    for options in variants:
        given = arguments(subject, dtypes, **options)
        keywords = {"align_corners": True} if "align_corners" in options else {}
        want = forward(bilateral_ops, subject, given, **keywords)
        assert_same_bits(forward(THROUGH, subject, given, **keywords), want)
        if subject not in DIFFERENTIABLE:
            continue
        grad = random_like(want.shape, F32 if dtypes.image.kind == "u" else dtypes.image)
        expected = backward(bilateral_ops, subject, given, grad, **keywords)
        got = backward(THROUGH, subject, given, grad, **keywords)
        assert type(got) is type(expected)
        for name in expected._fields:
            assert_same_bits(getattr(got, name), getattr(expected, name), name)


@pytest.mark.parametrize("subject", [*SAMPLED, *GUIDES])
def test_windows(subject: str) -> None:
    options = dict(WINDOW)
    window = options.pop("window")
    given = arguments(subject, ALL_F32, **options)
    for rule in (None, "centers", "corners"):
        keywords = {"window": window, "xy": rule, "align_corners": rule != "corners"}
        want = forward(bilateral_ops, subject, given, **keywords)
        assert_same_bits(forward(THROUGH, subject, given, **keywords), want)
        if subject in SAMPLED:
            expected = backward(bilateral_ops, subject, given, want, **keywords)
            got = backward(THROUGH, subject, given, want, **keywords)
            for name in expected._fields:
                assert_same_bits(getattr(got, name), getattr(expected, name), name)


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_some_gradients_only(subject: str) -> None:
    given = arguments(subject, ALL_F32, xy=subject in SAMPLED)
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    names = OPERATIONS[subject].arguments
    for wrt in ((), *((name,) for name in names), names[:2]):
        want = backward(bilateral_ops, subject, given, grad, wrt=wrt)
        got = backward(THROUGH, subject, given, grad, wrt=wrt)
        for name in names:
            assert_same_bits(getattr(got, name), getattr(want, name), f"{wrt} {name}")


def test_empty_images_add_nothing() -> None:
    for options in ({"H": 0}, {"W": 0}, {"N": 0, "H": 0}):
        given = arguments("slice_apply", ALL_F32, **options)
        want = backward(bilateral_ops, "slice_apply", given, forward(bilateral_ops, "slice_apply", given))
        got = backward(THROUGH, "slice_apply", given, forward(bilateral_ops, "slice_apply", given))
        for name in ("grid", "guide", "image"):
            assert_same_bits(getattr(got, name), getattr(want, name))


def test_numbers_and_results() -> None:
    given = sent("guide_nn")
    assert_same_bits(
        bilateral_ops.guide_nn(**{**given, "b2": 0.25}),
        bilateral_ops.guide_nn(**{name: 0.25 if name == "b2" else np.asarray(a) for name, a in given.items()}),
    )
    assert isinstance(bilateral_ops.guide_nn(**given), jax.Array)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_numpys_arrays_beside_jaxs(subject: str) -> None:
    """Each argument alone is JAX's, an array or what `jit` traces; all others are NumPy's."""
    for options in [{"xy": True} if subject in SAMPLED else {}, *indexed(subject)]:
        given = arguments(subject, ALL_F32, **options)
        values, function = split(subject, ALL_F32, **options)
        plain = {name: np.asarray(a) for name, a in values.items()}
        want = forward(bilateral_ops, subject, given)
        for name, array in values.items():
            got = function({**plain, name: array})
            assert isinstance(got, jax.Array)
            assert_same_bits(got, want)
            alone = jax.jit(lambda a, name=name, plain=plain, function=function: function({**plain, name: a}))
            assert_same_bits(alone(plain[name]), want)
        if subject in DIFFERENTIABLE:
            found = backward(bilateral_ops, subject, given, jnp.asarray(want))
            expected = backward(bilateral_ops, subject, given, want)
            for name in expected._fields:
                assert_same_bits(getattr(found, name), getattr(expected, name), name)
                assert isinstance(getattr(found, name), (jax.Array, type(None)))


def test_numpys_dtypes_are_what_jax_makes_of_them() -> None:
    given = arguments("slice_apply", ALL_F32)
    double = given["guide"].astype(F64)
    sent = jnp.asarray(given["image"])
    for _ in range(2):  # what was found of a call with 64 bits holds for that call alone
        with pytest.raises(TypeError, match="guide must be float32 to match image, got float64"):
            bilateral_ops.slice_apply(given["grid"], double, sent)
        jax.config.update("jax_enable_x64", False)
        assert_same_bits(bilateral_ops.slice_apply(given["grid"], double, sent), bilateral_ops.slice_apply(**given))
        jax.config.update("jax_enable_x64", True)


# ---------------------------------------------------------------------------------------------------------------------
# Guides are pytrees
# ---------------------------------------------------------------------------------------------------------------------


def guide_of(subject: str, dtypes: Dtypes = ALL_F32) -> tuple[Any, Any, Any]:
    """A guide record, and a grid and an image for it, of NumPy."""
    given = arguments(subject, dtypes, **TINY)
    return given["guide"], given["grid"], given["image"]


@pytest.mark.parametrize("subject", GUIDES)
def test_guides_through_jit_vmap_and_trees(subject: str) -> None:
    guide, grid, image = guide_of(subject)
    want = bilateral_ops.enhance(grid, guide, image)
    assert_same_bits(jax.jit(bilateral_ops.enhance)(grid, guide, image), want)
    assert_same_bits(jax.jit(lambda guide, image: guide(image))(guide, image), guide(image))
    sent = jax.tree.map(jnp.asarray, guide)
    assert type(sent) is type(guide)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(sent))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(guide)]
    assert paths == [f".{name}" for name in fields(guide)]
    many = jax.tree.map(lambda a: jnp.stack([jnp.asarray(a)] * 2), guide)
    if paths:
        got = jax.vmap(bilateral_ops.enhance, in_axes=(None, 0, None))(grid, many, image)
        assert_same_bits(got, np.stack([want] * 2))


@pytest.mark.parametrize("subject", GUIDES)
def test_a_guide_learns(subject: str) -> None:
    """Its gradient is a record like it, which a tree's arithmetic takes a step by."""
    guide, _, image = guide_of(subject, ALL_F64)

    @jax.jit
    @jax.value_and_grad
    def loss(guide: Any) -> Any:
        return ((guide(image) - 0.3) ** 2).mean()

    before, gradient = loss(guide)
    assert type(gradient) is type(guide)
    stepped = jax.tree.map(lambda a, g: a - 1e-2 * g, guide, gradient)
    assert loss(stepped)[0] < before or not fields(guide)
    if fields(guide):
        check_grads(lambda guide: guide(image), (jax.tree.map(jnp.asarray, guide),), order=1, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtypes", [ALL_F32, dtypes_of("enhance(curves)")[0], Dtypes(U8, F32, F32)], ids=str)
@pytest.mark.parametrize("number", [0, 0.25])
def test_a_number_of_a_guide_that_is_traced(dtypes: Dtypes, number: float) -> None:
    """With 64 bits it comes as float64 or int64, and as one that may be any."""
    guide, grid, image = guide_of("enhance(curves)", dtypes)
    guide = dataclasses.replace(guide, mix_bias=number)
    assert_same_bits(jax.jit(bilateral_ops.enhance)(grid, guide, image), bilateral_ops.enhance(grid, guide, image))
    strong = dataclasses.replace(guide, mix_bias=np.float64(number) if guide.ccm.dtype != F64 else np.float32(number))
    with pytest.raises(TypeError, match="mix_bias must be float"):
        jax.jit(bilateral_ops.enhance)(grid, strong, image)


@pytest.mark.parametrize("order", ["bilateral_ops, jax", "jax, bilateral_ops", "bilateral_ops, importlib.util"])
def test_guides_are_trees_whoever_is_imported_first(order: str) -> None:
    code = f"""
import sys, importlib.util
import {order}
if "util" in {order!r}:  # who looks for it does not load it
    importlib.util.find_spec("jax")
    assert "jax" not in sys.modules
    import jax
assert not [finder for finder in sys.meta_path if getattr(finder, "_module", "") == "jax"]
guide = bilateral_ops.NNGuide(1.0, 2.0, 3.0, 4.0)
assert jax.tree.leaves(guide) == [1, 2, 3, 4], jax.tree.leaves(guide)
assert "bilateral_ops.frameworks.jax" not in sys.modules
"""
    finished = python(code)
    assert finished.returncode == 0, finished.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Compiled
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS)
def test_jit(subject: str) -> None:
    values, function = split(subject, ALL_F32, **SIZE)
    compiled = jax.jit(function)
    tree_same(compiled(values), function(values))
    text = compiled.lower(values).as_text()
    assert "@bilateral_ops_" in text
    assert "callback" not in text
    shaped = jax.eval_shape(function, values)
    assert (shaped.shape, shaped.dtype) == (function(values).shape, np.float32)
    jax.make_jaxpr(function)(values)


def test_a_layout_of_xlas_own_choice() -> None:
    given = sent("slice_apply", **SIZE)
    planar = jnp.moveaxis(given["image"], -1, 1)
    f = jax.jit(lambda grid, guide, planar: bilateral_ops.slice_apply(grid, guide, jnp.moveaxis(planar, 1, -1)))
    assert_same_bits(f(given["grid"], given["guide"], planar), bilateral_ops.slice_apply(**given))


def test_donated_arrays() -> None:
    given = sent("slice_apply", **SIZE)
    want = np.array(bilateral_ops.slice_apply(**given))
    f = jax.jit(bilateral_ops.slice_apply, donate_argnums=2)
    assert_same_bits(f(*given.values()), want)
    assert given["image"].is_deleted()


def test_under_scan_and_remat() -> None:
    given = sent("slice_apply", ALL_F64, **TINY)
    grid, guide, image = given.values()

    def step(image: Any, _: Any) -> tuple[Any, None]:
        return bilateral_ops.slice_apply(grid, guide, image), None

    def repeated(image: Any) -> Any:
        return jax.lax.scan(jax.checkpoint(step), image, length=2)[0].sum()

    twice = jax.grad(lambda image: step(step(image, None)[0], None)[0].sum())(image)
    tree_close(jax.jit(jax.grad(repeated))(image), twice)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives
# ---------------------------------------------------------------------------------------------------------------------


def form(subject: str) -> dict[str, Any]:
    return {**TINY, "xy": True} if subject in SAMPLED else TINY


def plain_of(subject: str) -> Callable[..., Any]:
    """The plain formulation, as a function of arrays by name."""
    keywords = {name: v for name, v in arguments(subject, **form(subject)).items() if name in NUMBERS}

    def plain(values: Any) -> Any:
        named = [values[name] for name in OPERATIONS[subject].arguments if name in values]
        return _formulas.FORMULAS[subject](jnp, *named, **keywords)

    return plain


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_gradients_of_both_orders(subject: str) -> None:
    values, function = split(subject, **form(subject))
    check_grads(jax.jit(function), (values,), order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_reverse_mode_is_the_vjps_kernels(subject: str) -> None:
    """Its bits, and nothing of the formulas; of the wanted arguments alone."""
    values, function = split(subject, ALL_F32, **form(subject))
    given = arguments(subject, ALL_F32, **form(subject))
    grad = random_like(function(values).shape, F32)
    want = backward(bilateral_ops, subject, given, grad)

    def total(values: Any) -> Any:
        return (function(values) * grad).sum()

    for derive in (jax.grad(total), jax.jit(jax.grad(total)), lambda v: jax.vjp(function, v)[1](jnp.asarray(grad))[0]):
        for name, got in derive(values).items():
            assert_same_bits(got, getattr(want, name), name)
    text = jax.jit(jax.grad(total)).lower(values).as_text()
    assert FORMULAS_USE.isdisjoint(text.split()), text
    for name in values if hasattr(jax, "shard_map") else ():
        one = jax.jit(jax.grad(lambda a, name=name: total({**values, name: a})))
        assert_same_bits(one(values[name]), getattr(want, name), name)
        called = re.findall(r'arrays = "([-ns]*)\|[^}]*_vjp"', one.lower(values[name]).as_text())
        assert [sum(kind != "-" for kind in written) for written in called] == [1], called


#: What formulas look a grid up by, sum by and compare by.
FORMULAS_USE = {
    "stablehlo.gather",
    '"stablehlo.gather"',
    '"stablehlo.scatter"',
    "stablehlo.select",
    "stablehlo.dot_general",
}


def test_the_formulas_would_be_seen() -> None:
    values, function = split("slice_apply", ALL_F32, **TINY)
    text = jax.jit(lambda v: jax.jvp(function, (v,), (v,))).lower(values).as_text()
    assert not FORMULAS_USE.isdisjoint(text.split())


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_forward_mode(subject: str) -> None:
    """Of some arguments and of all, mapped or not, in either order: what the plain formulation has."""
    values, function = split(subject, **form(subject))
    plain = plain_of(subject)
    rng = np.random.default_rng(3)
    moves = {name: jnp.asarray(rng.standard_normal(a.shape)) for name, a in values.items()}

    def tangent(f: Any, values: Any, moves: Any) -> Any:
        return jax.jvp(lambda some: f({**values, **some}), ({n: values[n] for n in moves},), (moves,))

    tree_close(jax.linearize(function, values)[1](moves), tangent(plain, values, moves)[1])
    for names in {tuple(values)[:1], tuple(values)[-1:]}:
        some = {name: moves[name] for name in names}
        tree_close(tangent(function, values, some), tangent(plain, values, some))
        many = stacked(some, names, (3,))

        def mapped(f: Any, some: Any = some, many: Any = many) -> Any:
            by_member = {n: 0 if n in some else None for n in values}
            inside = jax.vmap(lambda v, m: tangent(f, v, m), (dict.fromkeys(values), 0))(values, many)
            outside = tangent(jax.vmap(f, (by_member,)), {**values, **many}, many)
            return inside, outside

        tree_close(jax.jit(lambda: mapped(function))(), jax.jit(lambda: mapped(plain))())


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_both_modes_within_each_other(subject: str) -> None:
    values, function = split(subject, **form(subject))
    (name,), (other,) = [*values][:1], [*values][-1:]

    def second(outer: Any, inner: Any, f: Any) -> Any:
        def energy(a: Any, b: Any) -> Any:
            return jnp.sin(f({**values, name: a, other: b} if name != other else {name: a})).sum()

        return jax.jit(outer(inner(energy, len(values) > 1), 0))(values[name], values[other])

    want = second(jax.jacfwd, jax.jacfwd, plain_of(subject))
    for outer, inner in ((jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacfwd, jax.jacfwd)):
        tree_close(second(outer, inner, function), want)


def test_hessian_and_its_products() -> None:
    values, function = split("slice_apply", **TINY)
    guide = values["guide"]

    def energy(guide: Any) -> Any:
        return (function({**values, "guide": guide}) ** 2).sum()

    hessian = jax.jit(jax.hessian(energy))(guide)
    move = jnp.asarray(np.random.default_rng(4).standard_normal(guide.shape))
    for product in (
        jax.jvp(jax.grad(energy), (guide,), (move,))[1],
        jax.grad(lambda g: jnp.vdot(jax.grad(energy)(g), move))(guide),
        jax.vmap(lambda m: jax.jvp(jax.grad(energy), (guide,), (m,))[1])(move[None])[0],
    ):
        tree_close(product, jnp.tensordot(hessian, move, 2))


def test_the_transpose_of_a_tangent_with_zeros() -> None:
    """Linear in one tangent while another is an array of zeros: not the same as none."""
    values, function = split("apply", **TINY)
    names = [*values]

    def tangent(move: Any) -> Any:
        moves = {names[0]: move, names[1]: jnp.zeros_like(values[names[1]])}
        return jax.jvp(function, (values,), (moves,))[1]

    cotangent = jnp.ones(function(values).shape)
    (got,) = jax.linear_transpose(tangent, values[names[0]])(cotangent)
    tree_close(got, jax.vjp(function, values)[1](cotangent)[0][names[0]])


def test_a_wrong_gradient_is_seen() -> None:
    """check_grads fires: with the gradient of one argument doubled."""
    values, function = split("slice_apply", **TINY)

    @jax.custom_vjp
    def wrong(values: Any) -> Any:
        return function(values)

    def bwd(values: Any, grad: Any) -> Any:
        (found,) = jax.vjp(function, values)[1](grad)
        return ({**found, "guide": 2 * found["guide"]},)

    wrong.defvjp(lambda values: (function(values), values), bwd)
    with pytest.raises(AssertionError):
        check_grads(wrong, (values,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_the_plain_formulation_agrees(subject: str) -> None:
    """Forward and gradient; the gradient of the gradient is the formulation's own."""
    values, function = split(subject, **form(subject))
    plain = plain_of(subject)

    def both(f: Any) -> Any:
        return jax.jit(lambda values: (f(values), jax.grad(lambda v: jnp.sin(f(v)).sum())(values)))

    tree_close(both(function)(values), both(plain)(values))


def test_the_third_order() -> None:
    values, function = split("slice_apply", **TINY)

    def along(t: Any) -> Any:
        return function({**values, "image": values["image"] * t, "grid": values["grid"] * t}).sum()

    third = jax.jit(jax.grad(jax.grad(jax.grad(lambda t: along(t) ** 2))))(1.0)
    assert np.isfinite(third)
    assert third != 0


def test_the_vjps_compose_with_grad() -> None:
    given = sent("slice_apply", ALL_F64, **TINY)
    grad = jnp.asarray(random_like(given["image"].shape, F64))

    @jax.jit
    def energy(guide: Any) -> Any:
        return (bilateral_ops.slice_apply_vjp(given["grid"], guide, given["image"], grad, wrt="grid").grid ** 2).sum()

    check_grads(energy, (given["guide"],), order=1, modes=["rev"], atol=1e-4, rtol=1e-4, eps=1e-6)


@pytest.mark.parametrize("subject", ["apply", "slice_apply", "guide_curves", "guide_nn"])
def test_gradients_beside_integer_images(subject: str) -> None:
    """A result in integers has no slope; a guide of an integer image has one along its parameters."""
    values, function = split(subject, Dtypes(U8, F32, F32), **TINY)
    image = values.pop("image")
    got = jax.grad(lambda v: function({**v, "image": image}).astype("f4").sum())(values)
    if not subject.startswith("guide"):
        assert all((g == 0).all() for g in jax.tree.leaves(got))
        return
    given = {name: np.asarray(a) for name, a in {**values, "image": image}.items()}
    given = {name: given[name] for name in OPERATIONS[subject].arguments}
    want = backward(bilateral_ops, subject, given, np.ones(image.shape[:-1], np.float32))
    for name, found in got.items():
        assert_same_bits(found, getattr(want, name), name)


@pytest.mark.parametrize("subject", GUIDES)
def test_enhance_refuses_to_be_differentiated(subject: str) -> None:
    values, function = split(subject, ALL_F32, **TINY)
    for derive in (
        lambda: jax.grad(lambda v: function(v).sum())(values),
        lambda: jax.jit(jax.grad(lambda v: function(v).sum()))(values),
        lambda: jax.jvp(function, (values,), (values,)),
    ):
        with pytest.raises(RuntimeError, match=r"enhance: no argument may be differentiated.*guide_\*.*slice_apply"):
            derive()
    other = jax.grad(lambda t: (function(values) * t).sum())(jnp.float32(2))
    np.testing.assert_allclose(other, function(values).sum(), rtol=1e-6)


@pytest.mark.parametrize("subject", ["slice", "guide_nn", "total_variation"])
def test_gradcheck(subject: str) -> None:
    values, function = split(subject, **TINY)

    def of_user(**values: Any) -> Any:
        return function(values)

    assert gradcheck(jax.jit(of_user), values)
    given = {name: values[name] for name in OPERATIONS[subject].arguments if name in values}
    assert gradcheck(getattr(bilateral_ops, subject), given)


# ---------------------------------------------------------------------------------------------------------------------
# vmap
# ---------------------------------------------------------------------------------------------------------------------


def stacked(values: dict[str, Any], names: Any, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The named arrays with axes in front."""
    rng = np.random.default_rng(7)
    return {
        name: jnp.asarray(rng.uniform(0.1, 0.9, (*sizes, *a.shape)).astype(a.dtype)) if name in names else a
        for name, a in values.items()
    }


def mapped(function: Any, axes: tuple[dict[str, Any], ...]) -> Any:
    for in_axes in axes[::-1]:
        function = jax.vmap(function, in_axes=(in_axes,))
    return function


@pytest.mark.parametrize("subject", SUBJECTS)
def test_vmap_of_vmap(subject: str) -> None:
    """Each array mapped along both axes, one or none: the bits are those of a loop of calls."""
    values, function = split(subject, ALL_F64, **TINY)
    if subject == "splat":
        values, function = split(subject, ALL_F64, **TINY, N=2)
    names = list(values)
    choices = [(names, names), (names[:1], names[:1]), (names[1:], names[-1:]), (names[:1], names[-1:])]
    for outer, inner in choices:
        if not outer:
            continue
        shaped = {n: (2,) * (n in outer) + (3,) * (n in inner) for n in names}
        given = {n: stacked({n: values[n]}, [n], shaped[n])[n] for n in names}
        axes = ({n: 0 if n in outer else None for n in names}, {n: 0 if n in inner else None for n in names})

        def at(i: int, j: int, given: Any = given, outer: Any = outer, inner: Any = inner) -> Any:
            index = {n: (i,) * (n in outer) + (j,) * (n in inner) for n in names}
            return {n: a[index[n]] for n, a in given.items()}

        want = [[np.asarray(function(at(i, j))) for j in range(3)] for i in range(2)]
        assert_same_bits(jax.jit(mapped(function, axes))(given), np.array(want))
        assert_same_bits(mapped(function, axes)(given), np.array(want))


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_gradients_of_jit_of_vmap(subject: str) -> None:
    """Of a sum of calls, an array that is the same in all of them gathers its gradient from each."""
    values, function = split(subject, ALL_F64, **TINY)
    for names in ([n] for n in values):
        given = stacked(values, names, (3,))
        axes = ({n: 0 if n in names else None for n in values},)

        def total(given: Any, axes: Any = axes) -> Any:
            return jnp.sin(jax.jit(mapped(function, axes))(given)).sum()

        def looped(given: Any, names: Any = names) -> Any:
            each = [{n: a[i] if n in names else a for n, a in given.items()} for i in range(3)]
            return sum(jnp.sin(function(one)).sum() for one in each)

        tree_close(jax.grad(total)(given), jax.grad(looped)(given))


@pytest.mark.parametrize("subject", ["slice_apply", "guide_curves"])
def test_vmap_of_grad_and_of_the_second_order(subject: str) -> None:
    values, function = split(subject, ALL_F64, **TINY)
    given = stacked(values, values, (3,))

    def first(values: Any) -> Any:
        return jax.grad(lambda v: jnp.sin(function(v)).sum())(values)

    def second(values: Any) -> Any:
        return jax.grad(lambda v: sum((g**2).sum() for g in jax.tree.leaves(first(v))))(values)

    for derive in (first, second):
        want = [derive({n: a[i] for n, a in given.items()}) for i in range(3)]
        tree_close(jax.jit(jax.vmap(derive))(given), jax.tree.map(lambda *a: np.stack(a), *want))


def test_vmap_of_batches_and_out_axes() -> None:
    values, function = split("slice_apply", ALL_F32, **TINY, N=2)
    given = stacked(values, values, (3,))
    want = np.stack([function({n: a[i] for n, a in given.items()}) for i in range(3)])
    assert_same_bits(jax.vmap(function)(given), want)
    last = {n: jnp.moveaxis(a, 0, -1) for n, a in given.items()}
    got = jax.vmap(function, in_axes=({n: a.ndim - 1 for n, a in last.items()},), out_axes=1)(last)
    assert_same_bits(got, np.moveaxis(want, 0, 1))
    none = {n: a[:0] for n, a in given.items()}
    assert jax.vmap(function)(none).shape == (0, *want.shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


def test_out_is_refused() -> None:
    given = sent("slice_apply")
    sentence = "slice_apply: out must be None, as JAX arrays can't be written to, got"
    with pytest.raises(TypeError, match=sentence):
        bilateral_ops.slice_apply(**given, out=given["image"])
    with pytest.raises(TypeError, match=f"slice_apply_vjp{sentence[11:]} dict"):
        bilateral_ops.slice_apply_vjp(*given.values(), given["image"], out={"image": given["image"]})


def test_sentences_come_when_a_call_is_traced() -> None:
    given = sent("slice_apply")
    sentence = (
        r"slice_apply: guide must have shape \(H, W\), got|slice_apply: image must have shape .* to match guide, got"
    )
    with pytest.raises(ValueError, match=sentence):
        jax.jit(bilateral_ops.slice_apply)(given["grid"], given["guide"], given["image"][1:])
    with pytest.raises(TypeError, match=r"guide_luma: image must be float16, .* got int32"):
        jax.jit(bilateral_ops.guide_luma)(given["image"].astype("int32"))
    with pytest.raises(TypeError, match=r"guide_luma: image must be float16, .* got key"):
        bilateral_ops.guide_luma(jax.random.key(0))
    with pytest.raises(TypeError, match="guide must be float32 to match grid, got byte-swapped float32"):
        bilateral_ops.slice(given["grid"], np.asarray(given["guide"]).astype(">f4"))


def test_tracers_are_recognised() -> None:
    seen = []

    def f(image: Any) -> Any:
        seen.append(type(image))
        return bilateral_ops.guide_luma(image).sum()

    image = sent("guide_luma")["image"]
    jax.jit(jax.vmap(jax.grad(f)))(image[None])
    jax.make_jaxpr(f)(image)
    assert seen
    assert all(not kind.__name__.startswith("ArrayImpl") for kind in seen)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arrays": "n|nn"}, "fewer arrays than attribute arrays says"),
        ({"arrays": "n|"}, "more arrays than attribute arrays says"),
        ({"arrays": "nn"}, "without a bar"),
        ({"operation": 3}, "attribute operation is missing or of another type"),
        ({"guide": "nn"}, "wrong number of arrays"),
        ({"guide": "other"}, "unknown guide other"),
        ({"rank": 9}, "too few axes"),
        ({"rank": np.int32(3)}, "unsupported dtype of rank"),
    ],
)
def test_what_a_handler_throws_is_raised(change: dict[str, Any], reason: str) -> None:
    image = jnp.ones((4, 5, 3), jnp.float32)
    attributes = {"operation": "guide_luma", "arrays": "n|n", "rank": 3, "batched": False, "guide": "luma"}
    call = jax.ffi.ffi_call("bilateral_ops_guide_forward", jax.ShapeDtypeStruct((4, 5), np.float32))
    assert_same_bits(call(image, **attributes), bilateral_ops.guide_luma(image))
    with pytest.raises(Exception, match=f"INVALID_ARGUMENT: bilateral_ops: .*{reason}"):
        jax.block_until_ready(jax.jit(lambda a: call(a, **{**attributes, **change}))(image))


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer's shadow needs all the address space")
def test_a_lack_of_memory_is_raised() -> None:
    pytest.importorskip("resource", reason="there are no limits here")
    code = """
import resource
import jax, jax.numpy as jnp
import bilateral_ops
f = jax.jit(lambda guide, values: bilateral_ops.splat(guide, values, (1, 1 << 22, 16)))
guide, values = jnp.ones((1, 1), jnp.float16), jnp.ones((1, 1, 1), jnp.float16)  # whose sums are float32
compiled = f.lower(guide, values).compile()
compiled(guide, values).block_until_ready()  # starts all threads, whose stacks would count as well
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), -1))
try:
    compiled(guide, values).block_until_ready()
except Exception as error:
    print(str(error).partition("\\n")[0])
"""
    finished = python(code, BILATERAL_OPS_NUM_THREADS="1", OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
    assert "splat: there must be memory for a few grid rows a thread, got none." in finished.stdout, finished


# ---------------------------------------------------------------------------------------------------------------------
# Devices, threads and processes
# ---------------------------------------------------------------------------------------------------------------------


def test_devices_without_kernels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        platform = "tpu"

        def __str__(self) -> str:
            return "TPU_0"

    class Array:
        def devices(self) -> Any:
            return {Elsewhere()}

    with pytest.raises(RuntimeError, match="slice: grid is on TPU_0, and this version computes on cpu and cuda"):
        framework.locate("slice", "grid", Array())
    monkeypatch.setattr(Elsewhere, "platform", "gpu")
    monkeypatch.setattr(framework._dlpack, "_kernels", None)
    monkeypatch.setattr(framework._dlpack, "_MODULE", "bilateral_ops.no_such_module")
    with pytest.raises(RuntimeError, match="slice: grid is on TPU_0, and this bilateral_ops was built without CUDA"):
        framework.locate("slice", "grid", Array())


def test_a_weakly_typed_number_does_not_depend_on_calls_before() -> None:
    image, w1 = (jnp.asarray(np.random.default_rng(0).random(s), jnp.float16) for s in ((6, 7, 3), (4, 3)))
    zeros, grad, weak = jnp.zeros(4, jnp.float16), jnp.ones((6, 7), jnp.float16), jnp.asarray(0.1)

    def gradient(b2: Any) -> Any:
        return bilateral_ops.guide_nn_vjp(image, w1, zeros, zeros, b2, grad).b2

    first = gradient(weak)
    gradient(jnp.float32(0.1))
    again = gradient(weak)
    assert (first.dtype, float(first)) == (again.dtype, float(again))


def test_a_refused_shape_with_symbols_is_a_sentence() -> None:
    n, h, w = jax.export.symbolic_shape("n, h, w")
    guide = jax.ShapeDtypeStruct((h, w), np.float32)
    with pytest.raises(ValueError, match="guide_luma: image must have shape"):
        jax.export.export(jax.jit(bilateral_ops.guide_luma))(guide)
    grid, image = (jax.ShapeDtypeStruct(s, np.float32) for s in ((n, 4, 4, 4, 12), (n, h, w, 3)))
    with pytest.raises(ValueError, match="slice_apply: "):
        jax.export.export(jax.jit(bilateral_ops.slice_apply))(grid, jax.ShapeDtypeStruct((n, h, w), np.float32), image)


def test_many_threads_at_once() -> None:
    values, function = split("slice_apply", ALL_F32, H=40, W=50)
    step = jax.jit(jax.grad(lambda v: function(v).sum()))
    want = step(values)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: step(values), range(16)):
            tree_same(got, want)


def test_subnormal_gradients_are_numpys() -> None:
    """XLA's threads flush subnormals; kernels that they call do not."""
    given = arguments("slice_apply", ALL_F32, H=70, W=130, Gd=8)
    grad = random_like((70, 130, 3), F32) * F32.type(1e-38)
    want = backward(bilateral_ops, "slice_apply", given, grad)._asdict()
    del want["xy"]
    assert any(((value != 0) & (np.abs(value) < np.finfo(F32).tiny)).any() for value in want.values())
    step = jax.jit(lambda values, grad: backward(bilateral_ops, "slice_apply", values, grad)._asdict())
    got = step(THROUGH.sent(given), THROUGH.sent(grad))
    for name, value in want.items():
        assert_same_bits(np.asarray(got[name]), value, name)


def test_two_devices_and_a_fork() -> None:
    """Two CPU devices: a batch that `shard_map` divides, and one that `jit` is handed divided. Then a forked child."""
    code = """
import os, warnings
import jax, numpy as np
import bilateral_ops
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from cases import ALL_F32, arguments, assert_same_bits
given = arguments("slice_apply", ALL_F32, N=4)
want = bilateral_ops.slice_apply(**given)
grads = bilateral_ops.slice_apply_vjp(*given.values(), np.ones_like(want))
mesh = Mesh(np.array(jax.devices()), ("batch",))
assert mesh.size == 2
divided = [jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in given.values()]
shard_map = getattr(jax, "shard_map", None)
if shard_map is None:
    from jax.experimental.shard_map import shard_map
mapped = shard_map(bilateral_ops.slice_apply, mesh=mesh, in_specs=(P("batch"),) * 3, out_specs=P("batch"))
got = jax.jit(mapped)(*divided)
assert_same_bits(np.asarray(got), want)
assert len(got.sharding.device_set) == 2
assert_same_bits(np.asarray(jax.jit(bilateral_ops.slice_apply)(*divided)), want)
for f in (mapped, bilateral_ops.slice_apply):
    d = jax.jit(jax.grad(lambda *a: f(*a).sum(), argnums=(0, 1, 2)))(*divided)
    for got, name in zip(d, ("grid", "guide", "image")):
        assert_same_bits(np.asarray(got), getattr(grads, name))
    got, moved = jax.jit(lambda *a: jax.jvp(f, a, a))(*divided)
    one = jax.jvp(bilateral_ops.slice_apply, tuple(given.values()), tuple(given.values()))[1]
    np.testing.assert_allclose(moved, one, rtol=1e-4, atol=1e-5)
parameters = arguments("guide_nn", ALL_F32, N=4)  # the same on both devices
weights = {k: a for k, a in parameters.items() if k != "image"}
guide = shard_map(
    lambda image, weights: bilateral_ops.guide_nn(image, **weights),
    mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"),
)
d = jax.jit(jax.grad(lambda weights: guide(parameters["image"], weights).sum()))(weights)
one = bilateral_ops.guide_nn_vjp(*parameters.values(), np.ones(parameters["image"].shape[:-1], "f4"))
for name, got in d.items():
    np.testing.assert_allclose(got, getattr(one, name), rtol=1e-5, atol=1e-6)
on_second = [jax.device_put(a, jax.devices()[1]) for a in given.values()]
got = bilateral_ops.slice_apply(*on_second)
assert got.devices() == {jax.devices()[1]}
assert_same_bits(np.asarray(got), want)
warnings.simplefilter("ignore")
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        assert_same_bits(bilateral_ops.slice_apply(**given), want)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    finished = python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2", BILATERAL_OPS_NUM_THREADS="2")
    assert finished.stdout.strip() == "done", finished.stderr


def test_importing_the_package_does_not_import_jax() -> None:
    finished = python("import sys, bilateral_ops; print('jax' in sys.modules)")
    assert finished.stdout.strip() == "False", finished.stderr
