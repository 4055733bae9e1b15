"""PyTorch's and JAX's own arrays: types of results, and calls to refuse. Read by mypy, never run."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import bilateral_ops as bo
from bilateral_ops.compat import fused_bilagrid, gsplat, hdrnet, lib_bilagrid
from bilateral_ops.frameworks.torch import CurvesGuideModule, NNGuideModule, SliceApplyModule
from bilateral_ops.hdrnet import HDRNet, Predictor


def pytorch(t: torch.Tensor, p: torch.nn.Parameter) -> None:
    assert_type(bo.slice(t, t, out=t), torch.Tensor)
    assert_type(bo.slice_apply(p, bo.LumaGuide(), t), torch.Tensor)
    assert_type(bo.guide_luma(t), torch.Tensor)
    assert_type(bo.guide_nn(t, p, p, p, p), torch.Tensor)
    assert_type(bo.slice_apply_vjp(t, t, t, t, out={"grid": t}).guide, torch.Tensor | None)
    assert_type(bo.resize_area(t, (2, 3), dtype=torch.float32), torch.Tensor)
    assert_type(bo.enhance(t, bo.NNGuide(t, t, t, t), t), torch.Tensor)
    assert_type(hdrnet.bilateral_slice_apply_nchw(p, t, t), torch.Tensor)
    assert_type(hdrnet.unpack_coefficients(t, 8), torch.Tensor)
    bo.gradcheck(torch.nn.functional.relu, (t,))
    predictor = Predictor.load()
    assert_type(predictor(t, out=t), torch.Tensor)
    assert_type(predictor.render(predictor.grid(predictor.low_resolution(t)), t), torch.Tensor)


def modules(t: torch.Tensor) -> None:
    grids = lib_bilagrid.BilateralGrid(3)
    assert_type(lib_bilagrid.slice(grids, None, t, 0)["rgb"], torch.Tensor)
    assert_type(grids.forward(None, t, idx=t), torch.Tensor)
    assert_type(lib_bilagrid.slice4d(lib_bilagrid.BilateralGridCP4D(), t, t), dict[str, torch.Tensor])
    assert_type(fused_bilagrid.BilateralGrid(3).forward(None, t, t, True), torch.Tensor)
    assert_type(gsplat.bilateral_grid_drift_loss([t]), torch.Tensor)
    assert_type(CurvesGuideModule(device="cpu", dtype=torch.float64).freeze(), bo.CurvesGuide[torch.Tensor])
    assert_type(SliceApplyModule(NNGuideModule()).forward(t, t, window=(0, 0, 8, 8)), torch.Tensor)
    assert_type(HDRNet(device=torch.device("cpu")).render(t, t), torch.Tensor)
    lib_bilagrid.slice(grids, None, t, "0")  # refused
    SliceApplyModule(t)  # refused
    HDRNet(dtype=t)  # refused


def jax_arrays(j: jax.Array) -> None:
    assert_type(bo.slice(j, jnp.zeros(3)), jax.Array)
    assert_type(bo.slice_apply(j, bo.LumaGuide(), j), jax.Array)
    assert_type(bo.slice_vjp(j, j, j).grid, jax.Array | None)
    assert_type(bo.resize_area(j, (2, 3), dtype=jnp.float32), jax.Array)
    assert_type(bo.NNGuide(j, j, j, 0.5)(j), jax.Array)
    assert_type(hdrnet.bilateral_slice(j, j), jax.Array)
    bo.gradcheck(jnp.tanh, (j,))
    assert_type(Predictor.load()(j, strength=0.5), jax.Array)


def both(x: NDArray[np.float32], t: torch.Tensor, j: jax.Array) -> None:
    bo.slice(x, t)  # refused
    bo.slice(j, t)  # refused
    bo.slice_apply(x, x, j)  # refused
    bo.slice_vjp(t, t, t, out={"grid": x})  # refused
    bo.enhance(t, bo.NNGuide(j, j, j, 0.5), t)  # refused
