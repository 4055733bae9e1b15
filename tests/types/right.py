"""Calls that type checkers must let pass, and the types of their results. Read by mypy, never run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import bilateral_ops as bo
from bilateral_ops.compat import hdrnet
from bilateral_ops.export import glsl, onnx
from bilateral_ops.hdrnet import Config, Predictor, from_hdrnet, read_model, write_model

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class Tensor:
    """As much of PyTorch's as tells it from others' arrays."""

    def requires_grad_(self, mode: bool = True) -> "Tensor":
        return self

    def all(self) -> "Tensor":
        return self

    def squeeze(self) -> "Tensor":
        return self


def one_dtype(x: F32) -> None:
    assert_type(bo.slice(x, x), F32)
    assert_type(bo.slice(x, x, xy=x, align_corners=True, out=x), F32)
    assert_type(bo.slice(x, x, window=(0, 0, 8, 8)), F32)
    assert_type(bo.slice(x, x, xy="centers", align_corners=True), F32)
    assert_type(bo.enhance(x, bo.LumaGuide(), x, xy="corners"), F32)
    assert_type(bo.splat(x, x, (1, 2, 3)), F32)
    assert_type(bo.apply(x, x), F32)
    assert_type(bo.slice_apply(x, x, x), F32)
    assert_type(bo.slice_apply(x, bo.LumaGuide(), x), F32)
    assert_type(bo.total_variation(x), F32)
    assert_type(bo.guide_curves(x, x, x, x, x, x, 0.5), F32)
    assert_type(bo.guide_nn(x, x, x, x, x), F32)
    assert_type(bo.guide_nn(x, x, x, x, np.float32(0)), F32)
    assert_type(bo.guide_luma(x), F32)
    assert_type(bo.enhance(x, bo.LumaGuide(), x, window=(0, 0, 8, 8), out=x), F32)
    assert_type(bo.resize_area(x, (2, 3)), F32)


def the_image_is_of_another_dtype(grid: F32, image: U8, half: F16) -> None:
    assert_type(bo.apply(grid, image), U8)
    assert_type(bo.slice_apply(grid, grid, image, out=image), U8)
    assert_type(bo.slice_apply(grid, half, half), F16)
    assert_type(bo.enhance(grid, bo.NNGuide(grid, grid, grid, 0), image), U8)
    assert_type(bo.guide_luma(image), F32)
    assert_type(bo.LumaGuide()(image), F32)
    assert_type(bo.guide_nn(image, grid, grid, grid, 0), U8 | F32)
    assert_type(bo.resize_area(image, (2, 3), dtype=np.float32), F32)
    assert_type(bo.resize_area(image, (2, 3), dtype="float32"), NDArray[Any])


def shapes_are_not_kept() -> None:
    image = np.zeros((4, 4, 3), np.float32)
    assert_type(bo.guide_luma(image), F32)
    assert_type(bo.slice(np.zeros((1, 2, 3, 4), np.float32), bo.guide_luma(image)), F32)


def gradients(x: F32, image: U8, half: F16) -> None:
    assert_type(bo.slice_vjp(x, x, x, wrt=("grid", "xy"), out={"grid": x, "xy": None}).grid, F32 | None)
    assert_type(bo.total_variation_vjp(x, x, index=np.zeros(2, int)).grid, F32 | None)
    assert_type(bo.apply_vjp(x, image, x).coefficients, F32 | None)
    assert_type(bo.slice_apply_vjp(x, x, image, x).grid, F32 | None)
    assert_type(bo.slice_apply_vjp(x, bo.LumaGuide(), x, x, window=(0, 0, 8, 8)).image, F32 | None)
    assert_type(bo.slice_apply_vjp(x, half, half, half).image, F16 | None)
    assert_type(bo.slice_apply_vjp(x, half, half, half).guide, F32 | F16 | None)
    assert_type(bo.guide_curves_vjp(image, x, x, x, x, x, 1, x).mix_bias, F32 | None)
    assert_type(bo.guide_nn_vjp(x, x, x, x, x, x, wrt=("w1",)).w1, F32 | None)
    assert_type(bo.resize_area_vjp(x, x)._replace(image=None).image, F32 | None)
    _, values, _ = bo.splat_vjp(x, x, x)
    assert_type(values, F32 | None)


def records(x: F32, image: U8) -> None:
    guide = bo.CurvesGuide(x, x, x, x, x, 0.0)
    assert_type(guide, bo.CurvesGuide[F32])
    assert_type(guide.ccm, F32)
    assert_type(guide(x, out=x), F32)
    assert_type(bo.enhance(x, guide, image), U8)
    made = bo.NNGuide(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32), np.float32(0))
    assert_type(bo.enhance(x, made, image), U8)
    assert_type(made(x), F32)


def numpy_alone(x: F32, image: U8) -> None:
    assert_type(bo.fit(x, image, image, (8, 8, 4)), NDArray[np.floating[Any]])
    assert_type(bo.fit(bo.LumaGuide(), image, image, (8, 8, 4)), NDArray[np.floating[Any]])
    assert_type(bo.fit(bo.NNGuide(x, x, x, x), x, x, (8, 8, 4)), NDArray[np.floating[Any]])
    predictor = Predictor.load()
    assert_type(predictor(image, out=image), U8)
    assert_type(predictor.render(predictor.grid(predictor.low_resolution(x)), x, window=(0, 0, 8, 8)), F32)


def layer(matrix: F32, vector: F32) -> F32:
    return matrix @ vector


def layer_vjp(matrix: F32, vector: F32, grad: F32) -> tuple[F32, F32]:
    return grad[:, None] * vector, matrix.T @ grad


def two_results(t: Tensor) -> tuple[Tensor, Tensor]:
    return t, t


def checks(x: F32, t: Tensor) -> None:
    assert_type(bo.gradcheck(bo.slice_apply, (x, bo.LumaGuide(), x), wrt="grid"), bo.GradcheckReport)
    bo.gradcheck(bo.guide_luma, {"image": x})
    bo.gradcheck(layer, [x, x], vjp=layer_vjp, wrt=("matrix",), rtol=1e-5, seed=1)
    bo.gradcheck(layer, (x, x), vjp=lambda matrix, vector, grad: {"matrix": matrix, "vector": None})
    bo.gradcheck(bo.slice, (x, x), vjp=bo.slice_vjp)
    bo.gradcheck(layer, (x, x), vjp=layer_vjp, dtype="float32", eps=1e-3)
    bo.gradcheck(lambda tree: {"a": tree["a"]}, ({"a": x},), vjp=lambda tree, grad: (grad,), dtype=np.float32)
    bo.assert_gradients(layer, (x, x), vjp=layer_vjp, dtype="float32")
    bo.gradcheck(two_results, (t,))
    bo.gradcheck(lambda x: 2.0 * x, (0.5,), vjp=lambda x, grad: 2.0 * grad)
    print([row.error for row in bo.gradcheck(layer, (x, x), vjp=layer_vjp).rows])


def compatible(x: F32, image: U8, t: Tensor) -> None:
    assert_type(hdrnet.bilateral_slice(x, x, name="slice"), F32)
    assert_type(hdrnet.bilateral_slice_nchw(t, t), Tensor)
    assert_type(hdrnet.bilateral_slice_apply(x, x, image, has_offset=False), U8)
    assert_type(hdrnet.bilateral_slice_apply_nchw(t, t, t), Tensor)
    assert_type(hdrnet.apply(x, image), U8)
    assert_type(hdrnet.apply_nchw(x, x, False), F32)
    assert_type(hdrnet.unpack_coefficients(t, 8, "z_out_in", channels_first=True), Tensor)
    assert_type(hdrnet.unpack_coefficients(x, 8), F32)


def exported(x: F32, t: Tensor) -> None:
    guide = bo.NNGuide(t, t, t, 0.5)
    full = onnx.enhance(x.shape, guide, form="Gather", layout="NCHW", image="uint8", grid="float16", opset=17)
    onnx.save(onnx.behind("network.onnx", full, output="grid"), "whole.onnx")
    onnx.slice_apply((16, 16, 8, 3, 4), Ci=3, window=True, align_corners=True)


def models(t: Tensor) -> None:
    config, weights, metadata = read_model("model.safetensors")
    assert_type(config, Config)
    assert_type(weights, dict[str, F32])
    write_model("copy.safetensors", config, weights, metadata=metadata, dtype="float16")
    write_model("copy.safetensors", config, {"coefficients.prediction.bias": t})
    assert_type(Predictor(config, from_hdrnet(weights, config)), Predictor)


def shaders(x: F32, t: Tensor) -> None:
    guide = bo.NNGuide(t, t, t, 0.5)
    assert_type(glsl.shader(guide, x.shape, form="fast", parameters="uniforms", xy="corners", align_corners=True), str)
    assert_type(glsl.uniforms(guide), dict[str, F32])
    glsl.texture(t, form="fast").tobytes()
    glsl.web(Predictor.load(), glsl.save(None, "assets"))


def another_framework(t: Tensor) -> None:
    assert_type(bo.slice(t, t), Tensor)
    assert_type(bo.slice_apply(t, bo.LumaGuide(), t, out=t), Tensor)
    assert_type(bo.guide_luma(t), Tensor)
    assert_type(bo.guide_nn(t, t, t, t, 0.5), Tensor)
    assert_type(bo.guide_nn(t, t, t, t, np.float32(0)), Tensor)
    assert_type(bo.resize_area(t, (2, 3), dtype="float32"), Tensor)
    assert_type(bo.slice_apply_vjp(t, t, t, t, out={"grid": t}).guide, Tensor | None)
    assert_type(bo.NNGuide(t, t, t, t)(t), Tensor)
    assert_type(bo.enhance(t, bo.NNGuide(t, t, t, t), t), Tensor)


def of_unknown_type(a: Any, x: F32) -> None:
    bo.slice_apply(a, a, a, xy=a, window=a, align_corners=a, out=a)
    bo.enhance(a, a, a)
    assert_type(bo.slice(x, a), F32)
