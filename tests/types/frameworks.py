"""PyTorch's and JAX's own arrays: types of results, and calls to refuse. Read by mypy, never run."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import bilateral_ops as bo


def pytorch(t: torch.Tensor, p: torch.nn.Parameter) -> None:
    assert_type(bo.slice(t, t, out=t), torch.Tensor)
    assert_type(bo.slice_apply(p, bo.LumaGuide(), t), torch.Tensor)
    assert_type(bo.guide_luma(t), torch.Tensor)
    assert_type(bo.guide_nn(t, p, p, p, p), torch.Tensor)
    assert_type(bo.slice_apply_vjp(t, t, t, t, out={"grid": t}).guide, torch.Tensor | None)
    assert_type(bo.resize_area(t, (2, 3), dtype=torch.float32), torch.Tensor)
    assert_type(bo.enhance(t, bo.NNGuide(t, t, t, t), t), torch.Tensor)


def jax_arrays(j: jax.Array) -> None:
    assert_type(bo.slice(j, jnp.zeros(3)), jax.Array)
    assert_type(bo.slice_apply(j, bo.LumaGuide(), j), jax.Array)
    assert_type(bo.slice_vjp(j, j, j).grid, jax.Array | None)
    assert_type(bo.resize_area(j, (2, 3), dtype=jnp.float32), jax.Array)
    assert_type(bo.NNGuide(j, j, j, 0.5)(j), jax.Array)


def both(x: NDArray[np.float32], t: torch.Tensor, j: jax.Array) -> None:
    bo.slice(x, t)  # refused
    bo.slice(j, t)  # refused
    bo.slice_apply(x, x, j)  # refused
    bo.slice_vjp(t, t, t, out={"grid": x})  # refused
    bo.enhance(t, bo.NNGuide(j, j, j, 0.5), t)  # refused
