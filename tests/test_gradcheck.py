"""Does gradcheck pass right gradients, and fail wrong ones, on anyone's operation?"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import NUMBERS, fields, python

import bilateral_ops
from bilateral_ops import _samples, gradcheck
from bilateral_ops.ops import OPERATIONS

DIFFERENTIABLE = [name for name, operation in OPERATIONS.items() if operation.vjp is not None]


class Gradients(NamedTuple):
    matrix: Any
    vector: Any


def layer(matrix: Any, vector: Any) -> Any:
    """A user's operation: one layer of a network, on a matrix that is not square."""
    return np.tanh(matrix @ vector)


def layer_vjp(matrix: Any, vector: Any, grad: Any) -> Gradients:
    inner = (1 - np.tanh(matrix @ vector) ** 2) * grad
    return Gradients(np.outer(inner, vector), matrix.T @ inner)


def layer_arguments(rows: int = 5, columns: int = 7) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((rows, columns)), rng.standard_normal(columns)


def verdicts(report: Any) -> dict[str, bool]:
    return {row.argument: row.ok for row in report.rows}


# --- the package's own operations


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("batch", [None, 2])
def test_every_operation_passes(name, batch):
    xy = "xy" in OPERATIONS[name].arguments
    arguments = _samples.arguments(name, N=batch, H=4, W=5, Gh=2, Gw=3, Gd=3, xy=xy)
    report = gradcheck(getattr(bilateral_ops, name), arguments)
    assert report, str(report)
    assert [row.argument for row in report.rows] == list(OPERATIONS[name].arguments)


@pytest.mark.parametrize("rule", ["centers", "corners"])
@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if "xy" in OPERATIONS[name].arguments])
def test_pixels_by_a_rule_pass(name, rule):
    arguments = _samples.arguments(name, H=4, W=5, Gh=2, Gw=3, Gd=3, xy=rule)
    report = gradcheck(functools.partial(getattr(bilateral_ops, name), align_corners=rule == "centers"), arguments)
    assert report, str(report)
    assert [row.argument for row in report.rows] == [a for a in OPERATIONS[name].arguments if a != "xy"]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_small_error_in_any_argument_of_any_operation_is_seen(name):
    operation = OPERATIONS[name]
    arguments = _samples.arguments(name, H=4, W=5, Gh=2, Gw=3, Gd=3)
    floats = [key for key in operation.arguments if key in arguments]
    for wrong in floats:

        def vjp(grad, wrong=wrong, **given):
            given = {name: value for name, value in given.items() if name not in NUMBERS}
            found = operation.vjp(**given, grad=grad)._asdict()
            return {**found, wrong: found[wrong] * 1.00001}

        report = gradcheck(operation.function, arguments, vjp=vjp)
        assert verdicts(report) == {key: key != wrong for key in floats}, str(report)


def test_keywords_of_a_partial_reach_the_vjp():
    arguments = _samples.arguments("slice", H=4, W=5)
    f = functools.partial(functools.partial(bilateral_ops.slice, window=(2, 1, 9, 8)), align_corners=True)
    assert gradcheck(f, arguments)
    assert gradcheck(f, tuple(arguments.values()))
    values = _samples.arguments("splat", H=4, W=5)
    f = functools.partial(bilateral_ops.splat, grid_shape=values.pop("grid_shape"), align_corners=True)
    assert gradcheck(f, values)
    assert gradcheck(f, tuple(values.values()))


def test_an_operation_without_vjp_is_refused():
    arguments = (np.zeros((2, 2, 2, 3, 4)), np.zeros((2, 2, 3)))
    f = functools.partial(bilateral_ops.enhance, guide=bilateral_ops.LumaGuide())
    with pytest.raises(ValueError, match=r"gradcheck: vjp must be given for enhance, which has none of its own\."):
        gradcheck(f, {"grid": arguments[0], "image": arguments[1]})


def test_float32_and_integer_arguments():
    image = np.random.default_rng(0).integers(0, 255, (3, 4, 3), np.uint8, endpoint=True)

    def f(coefficients, image):
        return bilateral_ops.apply(coefficients, image / 255.0)

    def vjp(coefficients, image, grad):
        return bilateral_ops.apply_vjp(coefficients, image / 255.0, grad).coefficients

    coefficients = _samples.arguments("apply", H=3, W=4, image_dtype=np.float32)["coefficients"]
    report = gradcheck(f, (coefficients, image), vjp=vjp)
    assert report
    assert [row.argument for row in report.rows] == ["coefficients"]


# --- users' own operations, right and planted wrong


def test_a_right_vjp_passes_and_prints_a_table():
    report = gradcheck(layer, layer_arguments(), vjp=layer_vjp)
    assert report
    assert report.ok
    assert repr(report) == "<GradcheckReport ok: matrix, vector>"
    lines = str(report).splitlines()
    assert lines[0].split() == ["argument", "size", "checked", "kinks", "worst", "error", "dot", "product", "verdict"]
    assert lines[1].split()[:4] == ["matrix", "35", "35", "0"]
    assert lines[1].endswith("ok")
    assert lines[-1] == "all gradients agree to 1e-06"
    assert all(row.error < 1e-8 and row.dot_error < 1e-8 for row in report.rows)


WRONG = {
    "factor 1.00001": lambda g: Gradients(g.matrix * 1.00001, g.vector),
    "zero": lambda g: Gradients(np.zeros_like(g.matrix), g.vector),
    "shifted by one": lambda g: Gradients(np.roll(g.matrix, 1, axis=1), g.vector),
    "strides swapped": lambda g: Gradients(g.matrix.T.reshape(g.matrix.shape), g.vector),
    "one element": lambda g: Gradients(
        g.matrix + 1e-3 * (np.arange(g.matrix.size) == 3).reshape(g.matrix.shape), g.vector
    ),
    "sign": lambda g: Gradients(-g.matrix, g.vector),
    "not a number": lambda g: Gradients(np.where(np.eye(*g.matrix.shape) > 0, np.nan, g.matrix), g.vector),
    "infinite": lambda g: Gradients(g.matrix + np.inf, g.vector),
}


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (40, 30)], ids=["every coordinate", "sampled"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_planted_fault_fails(fault, rows, columns):
    report = gradcheck(layer, layer_arguments(rows, columns), vjp=lambda *a: WRONG[fault](layer_vjp(*a)))
    assert not report
    assert verdicts(report) == {"matrix": False, "vector": True}
    assert "FAIL" in report.rows[0].verdict
    assert str(report).endswith("not confirmed: matrix")


def test_a_fault_in_one_of_many_elements_is_seen_by_the_directions():
    weights = np.random.default_rng(0).uniform(1, 2, 5000)

    def vjp(x, grad):
        gradient = weights * grad
        gradient[4321] *= 1.01
        return gradient

    report = gradcheck(lambda x: weights * x, (weights,), vjp=vjp)
    assert not report
    assert report.rows[0].dot_error > 1e-6
    assert report.rows[0].checked == 200


def test_two_bugs_of_public_kernels():
    """A guide gradient that leaves out the image's channel, and a grid gradient whose matrix strides are swapped."""
    arguments = _samples.arguments("slice_apply", H=4, W=5, Gh=2, Gw=3, Gd=3)

    def channel_left_out(grid, guide, image, grad):
        found = bilateral_ops.slice_apply_vjp(grid, guide, image, grad)
        first = np.ascontiguousarray(np.broadcast_to(image[..., :1], image.shape))
        return found._replace(guide=bilateral_ops.slice_apply_vjp(grid, guide, first, grad).guide)

    def strides_swapped(grid, guide, image, grad):
        found = bilateral_ops.slice_apply_vjp(grid, guide, image, grad)
        return found._replace(grid=np.swapaxes(found.grid, -1, -2).reshape(found.grid.shape))

    assert gradcheck(bilateral_ops.slice_apply, arguments)
    positional = tuple(arguments.values())
    report = gradcheck(bilateral_ops.slice_apply, positional, vjp=channel_left_out)
    assert verdicts(report) == {"grid": True, "guide": False, "image": True}
    report = gradcheck(bilateral_ops.slice_apply, positional, vjp=strides_swapped)
    assert verdicts(report) == {"grid": False, "guide": True, "image": True}


# --- kinks


def relu_points() -> Any:
    x = np.random.default_rng(0).standard_normal(120)
    x[:40] = 0
    return x


@pytest.mark.parametrize("slope_at_zero", [0.0, 1.0, 0.5])
def test_either_side_of_a_kink_is_right(slope_at_zero):
    def vjp(x, grad):
        return grad * np.where(x == 0, slope_at_zero, x > 0)

    report = gradcheck(lambda x: np.maximum(x, 0), (relu_points(),), vjp=vjp)
    assert report
    assert (report.rows[0].kinks, report.rows[0].checked) == (40, 80)
    report = gradcheck(lambda x: np.maximum(x, 0).sum(), (relu_points(),), vjp=vjp)
    assert report
    assert report.rows[0].kinks == 40
    assert report.rows[0].dot_error < 1e-8


def test_a_fault_beside_kinks_is_seen():
    assert not gradcheck(lambda x: np.maximum(x, 0), (relu_points(),), vjp=lambda x, grad: grad * (x > 0.1))


def test_all_kinks_is_not_ok():
    report = gradcheck(np.abs, (np.zeros(4),), vjp=lambda x, grad: grad)
    assert not report
    assert report.rows[0].kinks == 4
    assert report.rows[0].checked == 0
    assert report.rows[0].verdict == "FAIL: nothing to compare, every coordinate is a kink"


def test_a_kink_within_the_step_is_resolved():
    x = np.array([1e-7, -1e-7, 3e-6, -3e-6, 1.0])
    report = gradcheck(np.abs, (x,), vjp=lambda x, grad: grad * np.sign(x))
    assert report
    assert report.rows[0].checked >= 4


@pytest.mark.parametrize("rate", [1.0, 100.0, 1e4])
def test_curvature_is_not_a_kink(rate):
    x = np.random.default_rng(0).standard_normal(60)
    report = gradcheck(lambda x: np.sin(rate * x), (x,), vjp=lambda x, grad: rate * np.cos(rate * x) * grad)
    assert report, str(report)
    assert report.rows[0].kinks == 0
    report = gradcheck(lambda x: x**2, (np.zeros(3),), vjp=lambda x, grad: 2 * x * grad)
    assert report
    assert report.rows[0].kinks == 0


# --- rounding, scales, NaN


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
def test_scales_of_arguments_and_results(scale):
    matrix, vector = layer_arguments()
    right = gradcheck(
        lambda x: scale * layer(matrix, x), (vector,), vjp=lambda x, g: layer_vjp(matrix, x, scale * g)[1]
    )
    assert right
    assert right.rows[0].error < 1e-8
    wrong = gradcheck(
        lambda x: scale * layer(matrix, x), (vector,), vjp=lambda x, g: 1.00001 * layer_vjp(matrix, x, scale * g)[1]
    )
    assert not wrong
    small = gradcheck(
        lambda x: layer(matrix, x / scale),
        (vector * scale,),
        vjp=lambda x, g: layer_vjp(matrix, x / scale, g)[1] / scale,
    )
    assert small
    assert small.rows[0].error < 1e-8


def test_a_gradient_of_zero_is_no_fault_and_rounding_no_excuse():
    x = np.random.default_rng(0).standard_normal(20)
    softmax_sum = gradcheck(lambda x: (np.exp(x) / np.exp(x).sum()).sum(), (x,), vjp=lambda x, grad: 0 * x)
    assert softmax_sum
    assert "zero within rounding" in softmax_sum.rows[0].verdict
    offset = gradcheck(lambda x: 1e4 + 1e-3 * x, (x,), vjp=lambda x, grad: 1e-3 * grad)
    assert offset
    assert not gradcheck(lambda x: 1e4 + 1e-3 * x, (x,), vjp=lambda x, grad: 0 * grad)


def test_a_result_computed_in_single_precision_never_passes():
    x = np.random.default_rng(0).standard_normal(20)
    assert not gradcheck(lambda x: np.sin(x.astype(np.float32)).astype(float), (x,), vjp=lambda x, g: np.cos(x) * g)
    with pytest.raises(TypeError, match="f must return float64 for float64 arguments, got float32"):
        gradcheck(lambda x: x.astype(np.float32), (x,), vjp=lambda x, g: g)


def test_what_is_not_finite_fails_with_the_reason():
    def reason(f, x, vjp=lambda x, grad: grad):
        report = gradcheck(f, (np.asarray(x, float),), vjp=vjp)
        assert not report
        return report.rows[0].verdict

    with np.errstate(all="ignore"):
        assert reason(np.log, [1.0, -1.0]) == "FAIL: f is not finite"
        assert reason(lambda x: np.sin(x), [1.0, np.nan]) == "FAIL: x is not finite"
        assert reason(np.sqrt, [1.0, 0.0]) == "FAIL: f is not finite a step away at [1]"
        assert reason(np.sin, [1.0, 0.0], lambda x, grad: grad / x) == "FAIL: the gradient is not finite at [1]"
    assert gradcheck(np.log, (np.array([1e-9, 1.0]),), vjp=lambda x, grad: grad / x)


def test_a_random_function_fails_with_the_reason():
    rng = np.random.default_rng(0)
    report = gradcheck(lambda x: x * rng.random(), (np.ones(3),), vjp=lambda x, grad: grad)
    assert not report
    assert report.rows[0].verdict == "FAIL: f gives another result when called again"


# --- float32 only


def single(function: Any) -> Any:
    """The function as most kernels are: of float32 and nothing else."""

    @functools.wraps(function)
    def f(*arguments, **keywords):
        for array in (*arguments, *keywords.values()):
            if getattr(array, "dtype", np.float32) == np.float64:
                raise TypeError("expected float32")
        return function(*arguments, **keywords)

    return f


def test_an_operation_of_float32_only():
    assert gradcheck(single(layer), layer_arguments(), vjp=single(layer_vjp), dtype="float32")
    report = gradcheck(single(layer), layer_arguments(40, 30), vjp=single(layer_vjp), dtype=np.float32)
    assert report, str(report)
    assert str(report).endswith("all gradients agree to 7e-04")
    raises(
        TypeError,
        "f must take float64 arguments, got TypeError (expected float32); as it takes float32, pass dtype='float32'.",
        *(single(layer), layer_arguments()),
        vjp=layer_vjp,
    )
    with pytest.raises(TypeError, match=r"got float32; where it computes in nothing else pass dtype='float32'\."):
        gradcheck(lambda x: x.astype(np.float32), (np.ones(2),), vjp=lambda x, g: g)

    def refuses_all(x):
        raise ValueError("never")

    with pytest.raises(ValueError, match=r"^never$"):
        gradcheck(refuses_all, (np.ones(2),), vjp=lambda x, g: g)


SINGLE = {
    "one in a hundred": lambda g: Gradients(g.matrix * np.float32(1.01), g.vector),
    "a term dropped": lambda g: Gradients(g.matrix * (np.arange(g.matrix.size) != 3).reshape(g.matrix.shape), g.vector),
    **{name: WRONG[name] for name in ("zero", "shifted by one", "strides swapped", "sign", "not a number")},
}


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (40, 30)], ids=["every coordinate", "sampled"])
@pytest.mark.parametrize("fault", SINGLE)
def test_a_fault_is_seen_in_float32(fault, rows, columns):
    wrong = single(lambda *a: SINGLE[fault](layer_vjp(*a)))
    report = gradcheck(single(layer), layer_arguments(rows, columns), vjp=wrong, dtype="float32")
    assert verdicts(report) == {"matrix": False, "vector": True}, str(report)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_operation_passes_in_float32_and_an_error_of_one_in_a_hundred_fails(name):
    operation = OPERATIONS[name]
    xy = "xy" in operation.arguments
    arguments = _samples.arguments(name, H=4, W=5, Gh=2, Gw=3, Gd=3, xy=xy)
    floats = [key for key in operation.arguments if key in arguments]
    for seed in range(5):
        report = gradcheck(operation.function, arguments, dtype="float32", seed=seed)
        assert report, str(report)
    for wrong in floats:

        def vjp(grad, wrong=wrong, **given):
            given = {name: value for name, value in given.items() if name not in NUMBERS}
            found = operation.vjp(**given, grad=grad)._asdict()
            return {**found, wrong: np.asarray(found[wrong] * 1.01, np.float32)}

        report = gradcheck(operation.function, arguments, vjp=vjp, dtype="float32")
        assert verdicts(report) == {key: key != wrong for key in floats}, str(report)


@pytest.mark.parametrize("name", ["sum of squares", "softmax", "logarithm", "long sum", "offset"])
def test_right_gradients_pass_in_float32(name):
    """Of what float32 makes hard: sums of many terms, terms that cancel, steep slopes."""
    rng = np.random.default_rng(5)
    x = rng.uniform(0.2, 2, 3000 if name == "long sum" else 60)
    f, vjp = {
        "sum of squares": (lambda x: (x * x).sum(), lambda x, g: 2 * x * g),
        "softmax": (lambda x: np.exp(x) / np.exp(x).sum(), softmax_vjp),
        "logarithm": (np.log, lambda x, g: g / x),
        "long sum": (lambda x: np.sin(x).mean(), lambda x, g: np.cos(x) * g / np.float32(x.size)),
        "offset": (lambda x: 10 + x, lambda x, g: g),
    }[name]
    for seed in range(10):
        report = gradcheck(single(f), (x,), vjp=single(vjp), dtype="float32", seed=seed)
        assert report, str(report)
    assert not gradcheck(single(f), (x,), vjp=single(lambda x, g: vjp(x, g) * np.float32(1.01)), dtype="float32")


def softmax_vjp(x, grad):
    y = np.exp(x) / np.exp(x).sum()
    return y * (grad - (grad * y).sum())


def test_the_step_and_the_tolerance_that_follows_from_it():
    x = np.linspace(0.5, 2, 9)
    report = gradcheck(np.sin, (x,), vjp=lambda x, g: np.cos(x) * g, eps=1e-2)
    assert report
    assert report.rtol == pytest.approx(16e-4)
    assert gradcheck(np.sin, (x,), vjp=lambda x, g: np.cos(x) * g, dtype="float32", eps=2.0**-6).rtol > 3e-3
    assert not gradcheck(np.sin, (x,), vjp=lambda x, g: 1.01 * np.cos(x) * g, eps=1e-2)
    assert gradcheck(np.sin, (x,), vjp=lambda x, g: 1.01 * np.cos(x) * g, rtol=0.02)


def test_frameworks_in_float32():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    jax = pytest.importorskip("jax", reason="JAX is not installed")

    def only(x, kind):
        assert x.dtype == kind
        return x

    x = np.linspace(0.5, 2, 9)
    assert gradcheck(lambda x: torch.sin(only(x, torch.float32)), (torch.tensor(x),), dtype="float32")
    assert gradcheck(lambda x: torch.sin(only(x, torch.float32)), (torch.tensor(x),), dtype=torch.float32)
    assert gradcheck(lambda x: jax.numpy.sin(only(x, np.float32)), (jax.numpy.asarray(x),), dtype="float32")
    assert not gradcheck(lambda x: torch.sin(x) + 0.01 * torch.exp(x.detach()), (torch.tensor(x),), dtype="float32")
    with pytest.raises(TypeError, match="pass dtype='float32'"):
        gradcheck(lambda x: torch.sin(x) + torch.zeros(9).addmv(torch.ones(9, 9), x), (torch.tensor(x),))


# --- containers and modules


def test_containers():
    x, y, z = np.linspace(0.1, 1, 4), np.linspace(1, 2, 4), np.float64(0.5)
    tree = {"scales": [x, (y,)], "options": {"power": 2.0, "name": "f"}}

    def f(tree, z):
        assert tree["options"] == {"power": 2.0, "name": "f"}
        assert type(tree["scales"][1]) is tuple
        return {"product": tree["scales"][0] * tree["scales"][1][0] ** tree["options"]["power"] * z}

    def vjp(tree, z, grad):
        (x, (y,)), grad = tree["scales"], grad["product"]
        return {"scales": [y**2 * z * grad, (2 * x * y * z * grad,)], "options": None}, (x * y**2 * grad).sum()

    report = gradcheck(f, (tree, z), vjp=vjp)
    assert verdicts(report) == {"tree['scales'][0]": True, "tree['scales'][1][0]": True, "z": True}
    assert gradcheck(f, {"tree": tree, "z": z}, vjp=lambda **a: dict(zip(("tree", "z"), vjp(**a))))

    def wrong(tree, z, grad):
        found, own = vjp(tree, z, grad)
        found["scales"][1] = (1.001 * found["scales"][1][0],)
        return found, own

    assert verdicts(gradcheck(f, (tree, z), vjp=wrong)) == {
        "tree['scales'][0]": True,
        "tree['scales'][1][0]": False,
        "z": True,
    }
    only = gradcheck(f, (tree, z), vjp=vjp, wrt="tree")
    assert [row.argument for row in only.rows] == ["tree['scales'][0]", "tree['scales'][1][0]"]
    assert len(gradcheck(f, (tree, z), vjp=vjp, wrt=["tree['scales'][0]"]).rows) == 1
    with pytest.raises(ValueError, match=r"must return a gradient for tree\['scales'\]\[0\], got None"):
        gradcheck(f, (tree, z), vjp=lambda tree, z, grad: (None, 0.0))


def guided(parameters: Any, image: Any) -> Any:
    return parameters["guide"](image) * parameters["scale"]


def guided_vjp(parameters: Any, image: Any, grad: Any) -> Any:
    scaled = bilateral_ops.guide_nn_vjp(image, *fields(parameters["guide"]).values(), parameters["scale"] * grad)
    record = bilateral_ops.NNGuide(scaled.w1, scaled.b1, scaled.w2, scaled.b2)
    return {"guide": record, "scale": (parameters["guide"](image) * grad).sum()}, scaled.image


GUIDED = [*(f"parameters['guide'].{name}" for name in ("w1", "b1", "w2", "b2")), "parameters['scale']", "image"]


def test_guide_records():
    drawn = _samples.arguments("guide_nn", H=3, W=4)
    image = drawn.pop("image")
    parameters = {"guide": bilateral_ops.NNGuide(**drawn), "scale": np.ones(())}
    report = gradcheck(guided, (parameters, image), vjp=guided_vjp)
    assert report, str(report)
    assert [row.argument for row in report.rows] == GUIDED

    def wrong(parameters: Any, image: Any, grad: Any) -> Any:
        found, own = guided_vjp(parameters, image, grad)
        return {**found, "guide": dataclasses.replace(found["guide"], b1=1.001 * found["guide"].b1)}, own

    assert [row.argument for row in gradcheck(guided, (parameters, image), vjp=wrong).rows if not row.ok] == GUIDED[1:2]
    luma = gradcheck(lambda guide, image: guide(image), (bilateral_ops.LumaGuide(), image), vjp=lambda *_: image)
    assert [row.argument for row in luma.rows] == ["image"]


def test_guide_records_are_containers_where_jax_is_not_loaded():
    code = """
import sys, test_gradcheck
assert "jax" not in sys.modules
test_gradcheck.test_guide_records()
assert "jax" not in sys.modules
"""
    finished = python(code)
    assert finished.returncode == 0, finished.stderr


def test_guide_records_of_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    drawn = {name: torch.as_tensor(a) for name, a in _samples.arguments("guide_nn", H=3, W=4).items()}
    image = drawn.pop("image")
    report = gradcheck(guided, ({"guide": bilateral_ops.NNGuide(**drawn), "scale": torch.ones(())}, image))
    assert report, str(report)
    assert [row.argument for row in report.rows] == GUIDED


def test_pytrees_of_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jnp = jax.numpy
    drawn = _samples.arguments("guide_nn", H=3, W=4)
    image = jnp.asarray(drawn.pop("image"))
    guide = bilateral_ops.NNGuide(**{name: jnp.asarray(a) for name, a in drawn.items()})
    report = gradcheck(guided, ({"guide": guide, "scale": jnp.ones(())}, image))
    assert report, str(report)
    assert [row.argument for row in report.rows] == GUIDED
    assert gradcheck(guided, ({"guide": guide, "scale": jnp.ones(())}, image), dtype="float32")
    partial = jax.tree_util.Partial(jnp.multiply, jnp.ones(3))  # of JAX's alone
    assert len(gradcheck(lambda f, x: f(x), (partial, jnp.ones(3))).rows) == 2

    @jax.custom_vjp
    def wrong(x):
        return jnp.sin(x)

    wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, grad: (1.00001 * jnp.cos(x) * grad,))
    report = gradcheck(lambda p: wrong(p["a"]) + jnp.sin(p["b"]), ({"a": jnp.ones(3), "b": jnp.ones(3)},))
    assert verdicts(report) == {"p['a']": False, "p['b']": True}


def test_modules_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    framework = pytest.importorskip("bilateral_ops.frameworks.torch")

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return weight * grad, 1.00001 * x * grad

    class Scaled(torch.nn.Module):
        def __init__(self, multiply):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(3))
            self.register_buffer("offset", torch.rand(3))
            self.multiply = multiply

        def forward(self, image):
            return self.multiply(image, self.weight) + self.offset**2

    image = torch.rand(2, 4, 3)
    module = Scaled(torch.mul)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert verdicts(gradcheck(module, (image,))) == {"image": True, "weight": True}
    assert verdicts(gradcheck(Scaled(Wrong.apply), (image,))) == {"image": True, "weight": False}
    assert verdicts(gradcheck(module, {"image": image}, wrt=("offset", "weight"))) == {"offset": True, "weight": True}
    assert gradcheck(module, (image,), dtype="float32")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.weight.grad is None
    nn = torch.nn
    for seed in range(6):
        torch.manual_seed(seed)
        inside = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())  # whose first bias changes nothing
        for dtype in ("float64", "float32"):
            report = gradcheck(inside, (torch.rand(5, 3),), dtype=dtype)
            assert verdicts(report) == dict.fromkeys(("input", "0.weight", "0.bias", "1.weight", "1.bias"), True)
            assert report.rows[2].verdict == "ok (zero within rounding)"
    assert gradcheck(framework.NNGuideModule(features=3), (image,), seed=1)


def test_assert_gradients():
    matrix, vector = layer_arguments()
    bilateral_ops.assert_gradients(layer, (matrix, vector), vjp=layer_vjp)
    bilateral_ops.assert_gradients(bilateral_ops.guide_luma, {"image": np.ones((2, 3, 3), np.float32)})
    with pytest.raises(AssertionError, match=r"do not agree with differences\nargument +size(.|\n)*confirmed: matrix$"):
        bilateral_ops.assert_gradients(layer, (matrix, vector), vjp=lambda *a: WRONG["sign"](layer_vjp(*a)))
    with pytest.raises(ValueError, match="rtol must be between"):
        bilateral_ops.assert_gradients(layer, (matrix, vector), vjp=layer_vjp, rtol=0)


# --- arguments and what a VJP returns


def test_forms_of_arguments_and_gradients():
    matrix, vector = layer_arguments()
    by_name = {"matrix": matrix, "vector": vector}
    assert gradcheck(layer, by_name, vjp=layer_vjp)
    assert gradcheck(layer, by_name, vjp=lambda **a: layer_vjp(**a)._asdict())
    assert gradcheck(layer, [matrix, vector], vjp=lambda *a: dict(reversed(layer_vjp(*a)._asdict().items())))
    assert gradcheck(layer, (matrix, vector), vjp=lambda *a: tuple(layer_vjp(*a)))
    assert gradcheck(lambda *a: layer(*a), (matrix, vector), vjp=layer_vjp).rows[1].argument == "args[1]"
    assert gradcheck(lambda a, b: layer(a, b), (matrix, vector), vjp=layer_vjp)
    only = gradcheck(layer, by_name, vjp=lambda **a: layer_vjp(**a)._replace(matrix=None), wrt="vector")
    assert only
    assert [row.argument for row in only.rows] == ["vector"]
    assert gradcheck(layer, (matrix, vector), vjp=layer_vjp, wrt=("vector", "matrix")).rows[0].argument == "vector"


def test_integers_scalars_and_others_are_passed_on():
    def f(x, power, index, label, factor):
        assert label == "label"
        assert type(power) is int
        assert index.dtype == np.int32
        assert type(factor) is float
        assert x.dtype == np.float64
        return factor * x[index] ** power

    def vjp(x, power, index, label, factor, grad):
        gradient = np.zeros_like(x)
        np.add.at(gradient, index, factor * power * x[index] ** (power - 1) * grad)
        return gradient, np.sum(x[index] ** power * grad)

    arguments = (np.linspace(1, 2, 4, dtype=np.float16), 3, np.array([0, 2, 2, 3], np.int32), "label", np.float32(0.7))
    report = gradcheck(f, arguments, vjp=vjp)
    assert report
    assert verdicts(report) == {"x": True, "factor": True}
    one_for_all = gradcheck(f, arguments, vjp=lambda *a: (vjp(*a)[0], None, None, None, vjp(*a)[1]))
    assert one_for_all


def test_several_results():
    def f(x, y):
        return np.sin(x), x[:2] * y

    def vjp(x, y, grad):
        gradient = np.cos(x) * grad[0]
        gradient[:2] += y * grad[1]
        return gradient, np.sum(x[:2] * grad[1])

    arguments = (np.linspace(0, 1, 5), 0.3)
    assert gradcheck(f, arguments, vjp=vjp)
    assert not gradcheck(f, arguments, vjp=lambda x, y, grad: vjp(x, y, (grad[0], 0 * grad[1])))


def test_empty_arguments():
    report = gradcheck(lambda x: 2 * x, (np.zeros((0, 3)),), vjp=lambda x, grad: 2 * grad)
    assert report
    assert report.rows[0].verdict == "ok (empty)"


def test_nothing_of_the_callers_changes():
    matrix, vector = layer_arguments()
    index = np.arange(7)
    kept = matrix.copy(), vector.copy(), index.copy()

    def f(matrix, vector, index):
        result = layer(matrix, vector[index])
        matrix[:], vector[:], index[:] = 0, 0, 0
        return result

    def vjp(matrix, vector, index, grad):
        found = layer_vjp(matrix, vector[index], grad)
        matrix[:], vector[:], index[:], grad[...] = 0, 0, 0, 0
        return found

    assert gradcheck(f, (matrix, vector, index), vjp=vjp)
    assert all(np.array_equal(a, b) for a, b in zip(kept, (matrix, vector, index)))
    for array in (matrix, vector, index):
        array.flags.writeable = False
    assert gradcheck(f, (matrix, vector, index), vjp=vjp)
    assert gradcheck(layer, (np.asfortranarray(matrix), vector[::-1]), vjp=layer_vjp)


def test_the_seed_decides():
    arguments = layer_arguments(40, 30)
    one, same, other = (gradcheck(layer, arguments, vjp=layer_vjp, seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def raises(error: type[Exception], sentence: str, *arguments: Any, **keywords: Any) -> None:
    with pytest.raises(error) as caught:
        gradcheck(*arguments, **keywords)
    assert str(caught.value) == f"gradcheck: {sentence}"


def test_sentences():
    pair = layer_arguments()
    raises(ValueError, "vjp must be given where f is not an operation of this package.", layer, pair)
    raises(TypeError, "f must be callable, got float.", 1.0, pair)
    raises(
        TypeError,
        "arguments must be a tuple, a list or a mapping of f's arguments, got ndarray.",
        *(np.sin, pair[0]),
        vjp=layer_vjp,
    )
    raises(ValueError, "rtol must be between 0 and 1, got 0.", layer, pair, vjp=layer_vjp, rtol=0)
    raises(ValueError, "eps must be between 0 and 1, got -1.", layer, pair, vjp=layer_vjp, eps=-1)
    raises(
        ValueError, "dtype must be 'float64' or 'float32', got 'float16'.", layer, pair, vjp=layer_vjp, dtype="float16"
    )
    raises(
        ValueError, "wrt must name arguments of f (matrix, vector), got 'x'.", layer, pair, vjp=layer_vjp, wrt=("x",)
    )
    raises(ValueError, "wrt must name at least one argument, got none.", layer, pair, vjp=layer_vjp, wrt=())
    raises(TypeError, "wrt must be the name of an argument, or several, got int.", layer, pair, vjp=layer_vjp, wrt=3)
    raises(TypeError, "vjp must be callable, got int.", layer, pair, vjp=3)
    raises(TypeError, "arguments must have strings for keys, got 3.", layer, {3: pair[0]}, vjp=layer_vjp)
    for seed in (-1, "a"):
        sentence = f"seed must be an integer that is not negative, got {seed!r}."
        raises(ValueError, sentence, layer, pair, vjp=layer_vjp, seed=seed)
    whole = (np.arange(3), np.arange(3))
    raises(
        TypeError,
        "wrt must name float arguments, got 'matrix', which is int64.",
        layer,
        whole,
        vjp=layer_vjp,
        wrt="matrix",
    )
    raises(
        ValueError,
        "arguments must have a float array or scalar among them, got matrix, vector.",
        *(layer, whole),
        vjp=layer_vjp,
    )
    raises(
        ValueError,
        "vjp must return shape (5, 7) for matrix, got (7, 5).",
        *(layer, pair),
        vjp=lambda *a: (layer_vjp(*a)[0].T, layer_vjp(*a)[1]),
    )
    raises(
        ValueError,
        "vjp must return a gradient for matrix, got None; leave it out with wrt.",
        *(layer, pair),
        vjp=lambda *a: (None, layer_vjp(*a)[1]),
    )
    raises(
        ValueError,
        "vjp must return a gradient for vector, got None; leave it out with wrt.",
        *(layer, pair),
        vjp=lambda *a: {"matrix": layer_vjp(*a)[0]},
    )
    raises(
        ValueError,
        "vjp must name arguments of f (matrix, vector), got 'other'.",
        *(layer, pair),
        vjp=lambda *a: {"other": layer_vjp(*a)[0]},
    )
    raises(
        ValueError,
        "vjp must return one gradient for each of the 2 float arguments (matrix, vector) or of all 2, got 1.",
        *(layer, pair),
        vjp=lambda *a: layer_vjp(*a)[0],
    )
    raises(
        TypeError,
        "vjp must return a real array for matrix, got complex128.",
        *(layer, pair),
        vjp=lambda *a: (layer_vjp(*a)[0] * 1j, layer_vjp(*a)[1]),
    )
    raises(TypeError, "f must return float64 for float64 arguments, got object.", lambda *a: None, pair, vjp=layer_vjp)


# --- other frameworks' autograd


def test_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def f(x, y, index):
        return torch.sin(x)[index] * y

    arguments = (
        torch.linspace(0, 1, 5, dtype=torch.float32, requires_grad=True),
        0.3 + torch.zeros(3),
        torch.tensor([0, 2, 2]),
    )
    report = gradcheck(f, arguments)
    assert report
    assert verdicts(report) == {"x": True, "y": True}
    assert arguments[0].grad is None
    assert arguments[0].dtype == torch.float32

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.sin(x)

        @staticmethod
        def backward(ctx, grad):
            return 1.00001 * torch.cos(ctx.saved_tensors[0]) * grad

    assert gradcheck(lambda x, factor: factor * torch.sin(x), (torch.ones(3), 0.5))
    assert not gradcheck(Wrong.apply, (torch.linspace(0, 1, 5),))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert gradcheck(torch.sin, (torch.linspace(0, 1, 5),))
            assert not gradcheck(Wrong.apply, (torch.linspace(0, 1, 5),))
    assert not gradcheck(lambda x: torch.sin(x.detach()), (torch.linspace(0, 1, 5),))
    assert gradcheck(lambda x, y: torch.sin(x), (torch.linspace(0, 1, 5), torch.ones(2)))
    assert gradcheck(torch.sin, {"input": torch.ones(2)}, vjp=lambda input, grad: grad * torch.cos(input))
    assert not gradcheck(torch.sin, (torch.ones(2),), vjp=lambda x, grad: grad * torch.sin(x))
    assert gradcheck(lambda x: (x * 2, x.sum()), (torch.ones(2, dtype=torch.bfloat16),))
    with pytest.raises(TypeError, match="must return float64 for float64 arguments, got float32"):
        gradcheck(lambda x: x.float(), (torch.ones(2),))


def test_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jnp = jax.numpy

    def f(x, y, index):
        return jnp.sin(x)[index] * y

    arguments = (jnp.linspace(0, 1, 5), 0.3 + jnp.zeros(3), jnp.array([0, 2, 2]))
    report = gradcheck(f, arguments)
    assert report
    assert verdicts(report) == {"x": True, "y": True}
    assert gradcheck(jax.jit(f), arguments)
    assert jnp.ones(1).dtype == jnp.float32, "64 bits stay inside"

    @jax.custom_vjp
    def wrong(x):
        return jnp.sin(x)

    wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, grad: (1.00001 * jnp.cos(x) * grad,))
    assert not gradcheck(wrong, (jnp.linspace(0, 1, 5),))
    assert gradcheck(jnp.sin, (jnp.ones(2),), vjp=lambda x, grad: grad * jnp.cos(x))
    assert gradcheck(lambda x: (x * 2, x.sum()), {"x": jnp.ones(2, jnp.bfloat16)})
    with pytest.raises(TypeError, match="must return float64 for float64 arguments, got float32"):
        gradcheck(lambda x: x.astype(jnp.float32), (jnp.ones(2),))


def test_frameworks_do_not_mix():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    pair = (torch.ones(2), jax.numpy.ones(2))
    raises(TypeError, "arguments must be of one framework, got jax and torch.", lambda x, y: x, pair)


def test_a_step_that_tells_nothing_is_refused() -> None:
    x = np.random.default_rng(0).random(4) + 1
    with pytest.raises(ValueError, match="eps must be a step that tells gradients to a tenth"):
        gradcheck(lambda x: x**2, (x,), vjp=lambda x, grad: 5 * x * grad, eps=0.5)
