"""Bilateral grids at full resolution: slice, guide and apply, forward and backward, as compiled kernels.

Start with :func:`slice_apply`, or :func:`enhance` for inference in one pass. :func:`fit` finds the grid that maps one
image to another, and :func:`gradcheck` checks gradients. ``bilateral_ops.reference.numpy`` is the specification, in
plain NumPy.

Arrays are those of NumPy, PyTorch, JAX, CuPy or TensorFlow. All arrays of a call, and its results, are of one framework
and on one device.
"""

from __future__ import annotations

from . import _cpu
from ._core import settings as _settings
from ._core.settings import available_isas, get_num_threads, set_isa, set_num_threads, show_config
from ._fit import fit
from ._gradcheck import GradcheckReport, assert_gradients, gradcheck
from .frameworks._awaited import await_frameworks as _await_frameworks
from .ops._apply import apply, apply_vjp
from .ops._enhance import enhance
from .ops._guide_curves import CurvesGuide, guide_curves, guide_curves_vjp
from .ops._guide_luma import LumaGuide, guide_luma, guide_luma_vjp
from .ops._guide_nn import NNGuide, guide_nn, guide_nn_vjp
from .ops._resize_area import resize_area, resize_area_vjp
from .ops._slice import slice, slice_vjp
from .ops._slice_apply import slice_apply, slice_apply_vjp
from .ops._splat import splat, splat_vjp
from .ops._total_variation import total_variation, total_variation_vjp

__version__ = _cpu.__version__

__all__ = [
    "CurvesGuide",
    "GradcheckReport",
    "LumaGuide",
    "NNGuide",
    "apply",
    "apply_vjp",
    "assert_gradients",
    "available_isas",
    "enhance",
    "fit",
    "get_num_threads",
    "gradcheck",
    "guide_curves",
    "guide_curves_vjp",
    "guide_luma",
    "guide_luma_vjp",
    "guide_nn",
    "guide_nn_vjp",
    "resize_area",
    "resize_area_vjp",
    "set_isa",
    "set_num_threads",
    "show_config",
    "slice",
    "slice_apply",
    "slice_apply_vjp",
    "slice_vjp",
    "splat",
    "splat_vjp",
    "total_variation",
    "total_variation_vjp",
]

_settings.apply_environment()
_await_frameworks()
