"""Are TensorFlow's tensors served, eagerly and in graphs: the kernels' bits and gradients, and known shapes?"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
from backends import Through
from cases import (
    ALL_F32,
    ALL_F64,
    BF16,
    DIFFERENTIABLE,
    F16,
    F32,
    SAMPLED,
    SUBJECTS,
    U8,
    Dtypes,
    arguments,
    arrays,
    assert_same_bits,
    backward,
    clear_of_kinks,
    forward,
    python,
    random_like,
    replaced,
)

import bilateral_ops
from bilateral_ops.frameworks import _numpy
from bilateral_ops.hdrnet._arrays import beside

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

EACH = pytest.mark.parametrize("subject", SUBJECTS)
EACH_DIFFERENTIABLE = pytest.mark.parametrize("subject", DIFFERENTIABLE)
DTYPES = [ALL_F32, ALL_F64, Dtypes(F16, F32, F16), Dtypes(BF16, BF16, BF16), Dtypes(U8, F32, F32)]
THROUGH = Through(tf.convert_to_tensor, lambda tensor: tensor.numpy())


def given_of(subject: str, dtypes: Dtypes = ALL_F32, **options: Any) -> dict[str, Any]:
    return clear_of_kinks(subject, arguments(subject, dtypes, **{"H": 5, "W": 7, **options}))


def split(given: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Names of the arrays among the arguments, those of a guide record too, and tensors of them."""
    found = arrays(given)
    return [*found], [tf.convert_to_tensor(array) for array in found.values()]


def calling(subject: str, given: dict[str, Any], **keywords: Any) -> Any:
    """The operation as a function of its tensors alone."""
    names = [*arrays(given)]
    return lambda *at: forward(bilateral_ops, subject, replaced(given, **dict(zip(names, at))), **keywords)


def options_of(subject: str) -> list[dict[str, Any]]:
    sampled: list[dict[str, Any]] = [{"xy": True}, {"N": 2, "align_corners": True}]
    return [{}, {"N": 2}, *(sampled if subject in SAMPLED else [])]


def takes(subject: str, dtypes: Dtypes) -> bool:
    """Whether the operation takes such arguments, and has gradients of them."""
    try:
        forward(bilateral_ops, subject, given_of(subject, dtypes))
    except TypeError:
        return False
    return True


@EACH
def test_eager_calls_give_the_same_bits(subject: str) -> None:
    for dtypes, options in itertools.product(DTYPES, options_of(subject)):
        if not takes(subject, dtypes):
            continue
        keywords = {"align_corners": True} if "align_corners" in options else {}
        given = given_of(subject, dtypes, **options)
        want = forward(bilateral_ops, subject, given, **keywords)
        got = forward(THROUGH, subject, given, **keywords)
        assert_same_bits(got, want, str((dtypes, options)))


@EACH_DIFFERENTIABLE
def test_tapes_and_vjps_give_the_kernels_gradients(subject: str) -> None:
    for dtypes, options in itertools.product(DTYPES, options_of(subject)):
        if not takes(subject, dtypes):
            continue
        keywords = {"align_corners": True} if "align_corners" in options else {}
        given = given_of(subject, dtypes, **options)
        result = forward(bilateral_ops, subject, given, **keywords)
        if result.dtype.kind == "u":
            continue
        grad = random_like(result.shape, F32).astype(result.dtype)
        want = backward(bilateral_ops, subject, given, grad, **keywords)
        names, tensors = split(given)
        with tf.GradientTape() as tape:
            tape.watch([t for t in tensors if t.dtype.is_floating])
            got = calling(subject, given, **keywords)(*tensors)
        found = tape.gradient(got, tensors, output_gradients=tf.convert_to_tensor(grad))
        direct = backward(THROUGH, subject, given, grad, **keywords)
        for name, gradient in zip(names, found):
            expected = getattr(want, name)
            if expected is None:
                assert gradient is None
                continue
            assert_same_bits(gradient.numpy(), expected, name)
            assert_same_bits(getattr(direct, name), expected, name)


@EACH
@pytest.mark.parametrize("open_sizes", [False, True], ids=["static", "open"])
def test_graphs(subject: str, open_sizes: bool) -> None:
    given = given_of(subject, N=2)
    names, tensors = split(given)
    function = calling(subject, given)
    shapes = []

    def watching(*at: Any) -> Any:
        result = function(*at)
        shapes.append(result.shape)
        return result

    def described(name: str, tensor: Any) -> Any:
        """Sizes that differ from call to call are those of batches and images."""
        shape = tensor.shape.as_list()
        if open_sizes and name in ("image", "values", "coefficients", "guide", "grid"):
            shape[: 1 if name == "grid" else 3] = [None] * (1 if name == "grid" else 3)
        return tf.TensorSpec(shape, tensor.dtype)

    signature = [described(name, tensor) for name, tensor in zip(names, tensors)]
    graph = tf.function(watching, input_signature=signature)
    want = forward(bilateral_ops, subject, given)
    assert_same_bits(graph(*tensors).numpy(), want, subject)
    (shape,) = shapes
    assert shape.rank == want.ndim
    assert all(size in (None, known) for size, known in zip(shape, want.shape))
    if not open_sizes:
        assert shape == want.shape
    if subject in DIFFERENTIABLE:

        @tf.function(input_signature=signature)
        def gradients(*at: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(at)
                total = tf.reduce_sum(function(*at))
            found = tape.gradient(total, at)
            assert [g.shape.as_list() for g in found] == [t.shape.as_list() for t in at]
            return found

        expected = backward(bilateral_ops, subject, given, np.ones_like(want))
        for name, gradient in zip(names, gradients(*tensors)):
            assert_same_bits(gradient.numpy(), getattr(expected, name), name)


def test_images_of_any_size_in_one_graph() -> None:
    @tf.function(input_signature=[tf.TensorSpec([3, 4, 5, 3, 4]), tf.TensorSpec([None, None, 3])])
    def enhanced(grid: Any, image: Any) -> Any:
        result = bilateral_ops.slice_apply(grid, bilateral_ops.guide_luma(image), image)
        assert result.shape.as_list() == [None, None, 3]
        return result

    grid = np.random.default_rng(0).random((3, 4, 5, 3, 4), np.float32)
    for size in ((4, 6), (9, 5)):
        image = np.random.default_rng(1).random((*size, 3), np.float32)
        want = bilateral_ops.slice_apply(grid, bilateral_ops.guide_luma(image), image)
        assert_same_bits(enhanced(grid, image).numpy(), want, str(size))


def test_a_graphs_call_is_checked_when_it_is_traced_and_when_it_runs() -> None:
    @tf.function
    def wrong(grid: Any, guide: Any) -> Any:
        return bilateral_ops.slice(grid, guide)

    with pytest.raises(ValueError, match=r"slice: guide must have shape \(N, H, W\) = \(2, \*, \*\) to match grid"):
        wrong(tf.zeros((2, 3, 4, 5, 1)), tf.zeros((3, 5, 7)))
    later = tf.function(wrong, input_signature=[tf.TensorSpec([None] * 5), tf.TensorSpec([None] * 3)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"slice: guide must have shape"):
        later(tf.zeros((2, 3, 4, 5, 1)), tf.zeros((3, 5, 7)))
    shapeless = tf.function(wrong, input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    with pytest.raises(
        ValueError, match=r"slice: guide must have a rank, got a tensor of unknown shape; pass tf\.ensure"
    ):
        shapeless(tf.zeros((2, 3, 4, 5, 1)), tf.zeros((2, 5, 7)))


def test_variables_are_trained() -> None:
    rng = np.random.default_rng(0)
    guide, image = rng.random((12, 13), np.float32), rng.random((12, 13, 3), np.float32)
    target = image * 0.5
    grid = tf.Variable(np.tile(np.eye(3, 4, dtype=np.float32), (3, 3, 4, 1, 1)))

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            got = bilateral_ops.slice_apply(grid, tf.constant(guide), tf.constant(image))
            loss = tf.reduce_mean(tf.square(got - target))
        grid.assign_sub(20.0 * tape.gradient(loss, grid))
        return loss

    losses = [float(step()) for _ in range(20)]
    assert losses[-1] < 0.2 * losses[0]


def test_tensorflows_dtypes_are_names_of_dtypes() -> None:
    image = tf.constant(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for dtype in (tf.float32, tf.bfloat16):
        result = bilateral_ops.resize_area(image, (2, 2), dtype=dtype)
        assert result.dtype == dtype
        assert_same_bits(result.numpy(), bilateral_ops.resize_area(image.numpy(), (2, 2), dtype=dtype.name))
    with pytest.raises(TypeError, match=r"resize_area: dtype must be .*, got int32\."):
        bilateral_ops.resize_area(image, (2, 2), dtype=tf.int32)
    assert bilateral_ops.gradcheck(bilateral_ops.guide_luma, (tf.random.uniform((3, 3, 3)),), dtype=tf.float32)


def test_second_derivatives_are_refused() -> None:
    image = tf.random.uniform((5, 7, 3))
    with tf.GradientTape() as outer:
        outer.watch(image)
        with tf.GradientTape() as inner:
            inner.watch(image)
            total = tf.reduce_sum(bilateral_ops.guide_luma(image) ** 2)
        gradient = inner.gradient(total, image)
    sentence = (
        r"guide_luma_vjp: no tensor may be differentiated, as TensorFlow has first derivatives alone, by GradientTa"
    )
    with pytest.raises(RuntimeError, match=sentence):
        outer.gradient(gradient, image)

    @tf.function
    def hessians(image: Any) -> Any:
        return tf.hessians(tf.reduce_sum(bilateral_ops.guide_luma(image) ** 2), image)

    with pytest.raises(RuntimeError, match=sentence):
        hessians(image)
    with pytest.raises(RuntimeError, match=sentence), tf.autodiff.ForwardAccumulator(image, image):
        bilateral_ops.guide_luma(image)


def test_jacobians_and_maps() -> None:
    image = tf.random.uniform((2, 5, 7, 3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        guide = bilateral_ops.guide_luma(image)
    jacobian = tape.batch_jacobian(guide, image)
    green = tf.linalg.diag_part(jacobian[0, :, 2, :, 2, 1]).numpy()
    assert_same_bits(green, np.full(5, jacobian[1, 3, 3, 3, 3, 1]), "one pixel as any")
    assert np.count_nonzero(jacobian) == jacobian.shape[0] * 5 * 7 * 3
    assert_same_bits(tf.vectorized_map(bilateral_ops.guide_luma, image).numpy(), guide.numpy(), "vectorized_map")
    frames = tf.data.Dataset.from_tensor_slices(image).map(bilateral_ops.guide_luma, num_parallel_calls=2)
    assert_same_bits(np.stack([*frames.as_numpy_iterator()]), guide.numpy(), "tf.data")


def test_layers_of_keras() -> None:
    keras = pytest.importorskip("keras")

    class Enhanced(keras.layers.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.grid = self.add_weight(shape=(1, 3, 3, 4, 3, 4), initializer="random_normal")

        def call(self, image: Any) -> Any:
            index = tf.zeros(tf.shape(image)[0], tf.int32)
            return bilateral_ops.slice_apply(self.grid, bilateral_ops.guide_luma(image), image, index=index)

    image = np.random.default_rng(0).random((4, 8, 9, 3), np.float32)
    for size in ((8, 9), (None, None)):
        entry = keras.Input((*size, 3))
        layer = Enhanced()
        model = keras.Model(entry, layer(entry))
        model.compile("sgd", "mse")
        before = model.evaluate(image, image, verbose=0)
        model.fit(image, image, epochs=5, verbose=0)
        assert model.evaluate(image, image, verbose=0) < before
        want = bilateral_ops.slice_apply(
            layer.grid.numpy(), bilateral_ops.guide_luma(image), image, index=np.zeros(4, np.int32)
        )
        assert_same_bits(model.predict(image, verbose=0), want, str(size))
    with pytest.raises(TypeError, match=r"got KerasTensor; call in a layer, as keras\.layers\.Lambda\.$"):
        bilateral_ops.guide_luma(keras.Input((8, 9, 3)))


def test_the_packages_gradcheck_takes_tensors() -> None:
    given = given_of("slice")
    tensors = [tf.constant(given[name]) for name in ("grid", "guide")]
    for function in (bilateral_ops.slice, lambda grid, guide: bilateral_ops.slice(2 * grid, guide) ** 2):
        report = bilateral_ops.gradcheck(function, tuple(tensors))
        assert report, str(report)
        assert [row.argument for row in report.rows] == ["grid", "guide"]

    @tf.custom_gradient
    def wrong(x: Any) -> Any:
        return x**2, lambda grad: 2.01 * x * grad

    verdicts = {
        row.argument: row.ok for row in bilateral_ops.gradcheck(lambda x, y: wrong(x) * y, tensors[1:] * 2).rows
    }
    assert verdicts == {"x": False, "y": True}


def test_enhance_has_no_gradient() -> None:
    given = given_of("enhance(luma)")
    grid, image = tf.Variable(given["grid"]), tf.constant(given["image"])
    with tf.GradientTape() as tape:
        result = bilateral_ops.enhance(grid, given["guide"], image)
    with pytest.raises(RuntimeError, match=r"enhance: no tensor may be differentiated, .* call a guide_\* operation"):
        tape.gradient(result, grid)


def test_errors() -> None:
    image = tf.zeros((5, 7, 3))
    with pytest.raises(
        TypeError, match=r"guide_luma: out must be None, as tensors can't be written to, got EagerTensor"
    ):
        bilateral_ops.guide_luma(image, out=image)
    with pytest.raises(TypeError, match=r"slice: guide must belong to the framework of the other arrays"):
        bilateral_ops.slice(tf.zeros((3, 4, 5, 1)), np.zeros((5, 7), np.float32))
    with pytest.raises(TypeError, match=r"guide_luma: image must be float16, .*, got int32\."):
        bilateral_ops.guide_luma(tf.zeros((5, 7, 3), tf.int32))
    with pytest.raises(ValueError, match=r"guide_luma: .*; pass tf\.experimental\.numpy\.moveaxis\(image, -3, -1\)\.$"):
        bilateral_ops.guide_luma(tf.zeros((3, 5, 7)))
    with pytest.raises(TypeError, match=r"slice: .* got uint8; pass tf\.cast\(guide, tf\.float32\) / 255\.$"):
        bilateral_ops.slice(tf.zeros((3, 4, 5, 1)), tf.zeros((5, 7), tf.uint8))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (500, 701)])
def test_results_lie_where_the_kernels_wrote_them(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Aligned as TensorFlow's own operations demand, which end the process otherwise."""
    written = []
    run = _numpy.run

    def watched(op: str, kernel: str, given: Any, device: Any) -> None:
        written.append(given[0])
        run(op, kernel, given, device)

    monkeypatch.setattr(_numpy, "run", watched)
    result = bilateral_ops.guide_luma(tf.random.uniform((*size, 3)))
    assert np.shares_memory(memoryview(result), written[0])
    assert written[0].ctypes.data % 64 == 0
    total = float(tf.reduce_sum(tf.nn.relu(result * result)))
    assert total == pytest.approx(float(np.square(result.numpy()).sum()), rel=1e-4)


def test_predictors_say_what_to_pass() -> None:
    with pytest.raises(
        TypeError, match=r"^Predictor: image must be a NumPy, .* got EagerTensor; pass image\.numpy\(\)\.$"
    ):
        beside("Predictor", "image", tf.zeros((64, 64, 3)))


def in_a_graph(image: Any) -> Any:
    guide = bilateral_ops.guide_luma(image)
    guided = bilateral_ops.slice_apply(tf.zeros((2, 2, 2, 3, 4)), guide, image)
    return bilateral_ops.guide_luma_vjp(guided, guide).image


def test_autograph_leaves_the_operations_as_they_are() -> None:
    """What it cannot rewrite, it says so of on the standard error."""
    code = """
import tensorflow as tf
from test_tensorflow import in_a_graph
print(tf.function(in_a_graph)(tf.zeros((4, 5, 3))).shape)
"""
    finished = python(code)
    assert finished.stdout.strip() == "(4, 5, 3)", finished.stderr
    assert "AutoGraph" not in finished.stderr, finished.stderr


def test_tensorflow_is_imported_by_its_users_alone() -> None:
    code = "import sys, bilateral_ops; print('tensorflow' in sys.modules)"
    assert python(code).stdout.split() == ["False"]
