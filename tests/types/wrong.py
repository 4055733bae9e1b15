"""Calls that type checkers must refuse: those marked so, and no other line. Read by mypy, never run."""

import numpy as np
from numpy.typing import NDArray

import bilateral_ops as bo
from bilateral_ops.compat import hdrnet
from bilateral_ops.export import glsl, onnx
from bilateral_ops.hdrnet import Config, Predictor, from_hdrnet, write_model

F32 = NDArray[np.float32]


class Tensor:
    """As much of PyTorch's as tells it from others' arrays."""

    def requires_grad_(self, mode: bool = True) -> "Tensor":
        return self

    def all(self) -> "Tensor":
        return self

    def squeeze(self) -> "Tensor":
        return self


class Array:
    """As much of JAX's."""

    def addressable_data(self, index: int) -> "Array":
        return self

    def all(self) -> "Array":
        return self

    def squeeze(self) -> "Array":
        return self


def two_frameworks(x: F32, t: Tensor, j: Array) -> None:
    bo.slice(x, t)  # refused
    bo.slice(t, x)  # refused
    bo.slice(t, j)  # refused
    bo.slice(t, t, xy=j)  # refused
    bo.slice(t, t, out=x)  # refused
    bo.slice_vjp(x, x, t)  # refused
    bo.slice_vjp(x, x, x, out={"grid": t})  # refused
    bo.splat(x, j, (1, 2, 3))  # refused
    bo.apply(x, t)  # refused
    bo.slice_apply(x, x, t)  # refused
    bo.slice_apply(x, bo.LumaGuide(), t)  # refused
    bo.guide_curves(x, x, x, t, x, x, 0.5)  # refused
    bo.guide_nn(x, x, x, x, t)  # refused
    bo.guide_luma(x, out=t)  # refused
    bo.total_variation_vjp(x, t)  # refused
    bo.resize_area(x, (2, 3), out=t)  # refused
    bo.resize_area_vjp(x, t)  # refused
    bo.fit(x, x, t, (8, 8, 4))  # refused
    Predictor.load()(t, out=x)  # refused
    Predictor.load().render(x, t)  # refused
    hdrnet.bilateral_slice(x, t)  # refused
    hdrnet.bilateral_slice_apply(x, t, t)  # refused
    hdrnet.bilateral_slice_nchw(t, j)  # refused
    hdrnet.apply_nchw(x, t)  # refused


def two_frameworks_in_records(x: F32, t: Tensor) -> None:
    bo.enhance(x, bo.LumaGuide(), t)  # refused
    bo.enhance(x, bo.NNGuide(x, x, x, 0.5), t)  # refused
    bo.enhance(t, bo.NNGuide(x, x, x, 0.5), t)  # refused
    mixed = bo.CurvesGuide(x, x, x, t, x, 0.5)
    bo.enhance(x, mixed, x)  # refused


def no_arrays(x: F32) -> None:
    bo.slice([1.0], x)  # refused
    bo.slice(x, [1.0])  # refused
    bo.slice(x, 0.5)  # refused
    bo.guide_nn(x, x, x, x, "0.5")  # refused
    bo.NNGuide([1.0], [1.0], [1.0], 0.5)  # refused
    bo.enhance(x, x, x)  # refused
    bo.slice_apply(x, bo.NNGuide(x, x, x, 0.5), x)  # refused
    bo.slice_apply(x, None, x)  # refused
    bo.gradcheck(bo.slice, x)  # refused
    bo.gradcheck(bo.slice, "grid")  # refused
    bo.gradcheck(lambda x: "a sentence", (x,))  # refused
    hdrnet.apply(0.5, x)  # refused
    hdrnet.unpack_coefficients([1.0], 8)  # refused
    onnx.enhance(x, bo.LumaGuide())  # refused
    onnx.enhance(x.shape, x)  # refused
    from_hdrnet({"inference/guide/ccm": [1.0]}, Config())  # refused
    write_model("model.safetensors", Config(), x)  # refused


def other_arguments(x: F32) -> None:
    bo.slice(x, x, window="whole")  # refused
    bo.slice(x, x, xy="centres")  # refused
    bo.enhance(x, bo.LumaGuide(), x, xy=x)  # refused
    bo.slice(x, x, window=(0, 0, 8))  # refused
    bo.slice(x, x, window=(0, 0, 8.0, 8))  # refused
    bo.slice(x, x, align_corners=1)  # refused
    bo.slice_vjp(x, x, x, wrt=("grids",))  # refused
    bo.slice_vjp(x, x, x, wrt="grid")  # refused
    bo.guide_luma_vjp(x, x, wrt=("grid",))  # refused
    bo.slice_vjp(x, x, x, out=x)  # refused
    bo.splat(x, x, (1, 2))  # refused
    bo.resize_area(x, 2)  # refused
    bo.fit(x, x, x, (8, 8))  # refused
    glsl.shader(bo.LumaGuide(), x.shape, form="nearest")  # refused
    glsl.shader(x, x.shape)  # refused
    glsl.texture(x, form="half")  # refused
    glsl.web("model.safetensors")  # refused
    Predictor.load().render(x, x, window=(0, 0))  # refused
    bo.gradcheck("slice", (x, x))  # refused
    bo.gradcheck(bo.slice, (x, x), vjp=x)  # refused
    bo.gradcheck(bo.slice, (x, x), vjp=lambda grid, guide, grad: "a sentence")  # refused
    bo.gradcheck(bo.slice, (x, x), wrt=0)  # refused
    hdrnet.apply(x, x, has_affine_term="yes")  # refused
    hdrnet.unpack_coefficients(x, 8, "out_z_in")  # refused
    onnx.slice_apply((1, 2, 3, 4, 5), form="GatherND")  # refused
    onnx.slice_apply((1, 2, 3, 4, 5), layout="HWC")  # refused
    onnx.slice_apply((1, 2, 3, 4, 5), image="float64")  # refused
    onnx.save("model.onnx")  # refused
