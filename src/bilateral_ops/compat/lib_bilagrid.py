"""The bilateral grids of radiance fields, as trainers import them from ``lib_bilagrid``.

    from bilateral_ops.compat.lib_bilagrid import BilateralGrid, color_correct, slice, total_variation_loss

Every view of a scene has a grid of 3 × 4 colour matrices, all of them stored ``(N, 12, L, H, W)``: entries of the
matrices row by row, depth, height, width. A colour is looked up at its pixel's ``(x, y)`` in [0, 1] and at its BT.601
luma, where 0 and 1 are the centres of the first and the last cell (``align_corners``); positions outside are clamped.

Colours may be

    (n, 3)              rays, each with the grid that ``grid_idx (n, 1)`` names, or all with one
    (b, n, 3)           b rows of rays with a grid each, or an image h × w with one
    (b, h, w, 3)        b images, patches or (h = w = 1) rays with a grid each, or all with one
    (b, m, h, w, 3)     b groups of m images

and ``xy`` has the same axes, or axes of size 1 that stand for all. Where images cover their views from corner pixel to
corner pixel, ``xy=None`` says so.

Gradients are those of ``torch.nn.functional.grid_sample``: to the grids, to the colours (through their luma, too), and
to ``xy``. Colours and coordinates are cast to the grids' dtype; beside grids of 16 bits all are float32, and colours of
16 bits stay so beside float32 grids. :mod:`bilateral_ops.compat.fused_bilagrid` has the other package's names.

Source: Wang et al., Bilateral Guided Radiance Field Processing, SIGGRAPH 2024.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .._core.missing import needed
from ..ops._apply import apply
from ..ops._guide_luma import LUMA, guide_luma

with needed("bilateral_ops.compat.lib_bilagrid", "torch", "torch"):
    import torch
    from torch import nn
    from torch.utils import _pytree

    from ..frameworks.torch import followed
    from ._bilagrid import (
        Grids,
        Lookup,
        _images,
        all_in_order,
        chosen,
        coordinates,
        in_original_form,
        look_up,
        roughness,
    )
    from ._bilagrid4d import BilateralGridCP4D
    from ._color_correct import color_correct

__all__ = [
    "BilateralGrid",
    "BilateralGridCP4D",
    "bilateral_grid_tv_loss",
    "color_affine_transform",
    "color_correct",
    "slice",
    "slice4d",
    "total_variation_loss",
]


class BilateralGrid(Grids):
    """Bilateral grids of ``num`` views, each ``grid_Y`` × ``grid_X`` × ``grid_W`` (depth) cells; at first the identity.

    Parameters
    ----------
    num : int
    grid_X, grid_Y, grid_W : int
        Cells along the image's width, along its height, and in depth.
    sparse : bool
        Whether the gradient of ``grids`` is a sparse tensor with rows for the grids that a call looked up, as that of
        ``torch.nn.Embedding(sparse=True)`` is: a step of ``torch.optim.SparseAdam`` then costs as much as the views in
        it, however many the scene has. On a CUDA device, rays of several grids then wait for it.

    Attributes
    ----------
    grids : Parameter (num, 12, grid_W, grid_Y, grid_X)
    rgb2gray_weight : buffer (1, 3)
        BT.601's. With others, as a checkpoint may have, colours are looked up at the gray that these make of them. What
        is written into them on a device, but by loading, is not noticed.

    Notes
    -----
    Checkpoints of ``lib_bilagrid`` and of ``fused_bilagrid``, which have no weights, load.

    A subclass, or an instance, may have an ``rgb2gray`` of its own.
    """

    sparse = False
    rgb2gray: Callable[[torch.Tensor], torch.Tensor]
    """The gray of colours ``(..., 3)`` as ``(..., 1)``, from −1 for black to 1 for white."""
    rgb2gray_weight: torch.Tensor

    def __init__(self, num: int, grid_X: int = 16, grid_Y: int = 16, grid_W: int = 8, *, sparse: bool = False) -> None:
        super().__init__(num, grid_X, grid_Y, grid_W)
        self.sparse = sparse
        self.register_buffer("rgb2gray_weight", torch.tensor([LUMA]))
        self._luma, self._looked_at = True, (self.rgb2gray_weight, 0)

    def __getattr__(self, name: str) -> Any:  # of what is neither an attribute nor a method of a subclass
        if name == "rgb2gray" and name not in self._modules:
            return self._weighted
        return super().__getattr__(name)

    def _weighted(self, rgb: torch.Tensor) -> torch.Tensor:
        if self._weights_are_lumas():
            return guide_luma(_images(rgb, 1)).reshape(*rgb.shape[:-1], 1) * 2 - 1
        return rgb @ self.rgb2gray_weight.to(rgb.dtype).T * 2 - 1

    def _gray(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What gray colours are looked up at; None for their BT.601 luma."""
        replaced = "rgb2gray" in self.__dict__ or "rgb2gray" in self._modules or hasattr(type(self), "rgb2gray")
        return self.rgb2gray if replaced or not self._weights_are_lumas() else None

    def _weights_are_lumas(self, loaded: bool = False) -> bool:
        """Looked at where they were loaded, moved or replaced, and on the CPU where they were written to.

        On a device one would have to wait for them, and DistributedDataParallel writes to them before every step.
        """
        weight = self.rgb2gray_weight
        if torch.compiler.is_compiling() or followed((weight,)):
            return self._luma
        version = weight._version if weight.is_cpu and not weight.is_inference() else 0
        if loaded or self._looked_at[0] is not weight or self._looked_at[1] != version:
            luma = torch.tensor([LUMA]).to(weight.dtype).float()  # as a module's own are, whatever its dtype
            self._luma, self._looked_at = torch.equal(weight.detach().cpu().float(), luma), (weight, version)
        return self._luma

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved: Any = super()
        moved._apply(fn, recurse)
        self._weights_are_lumas()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        weight = torch.tensor([LUMA]) if self.rgb2gray_weight.is_meta else self.rgb2gray_weight
        state_dict.setdefault(f"{prefix}rgb2gray_weight", weight)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._weights_are_lumas(loaded=True)

    def tv_loss(self, idx: torch.Tensor | int | None = None) -> torch.Tensor:
        """:func:`total_variation_loss` of the grids, or of those that ``idx`` names."""
        if idx is None and not self.sparse:
            return total_variation_loss(self.grids)
        device = self.grids.device
        index = torch.arange(len(self.grids), device=device) if idx is None else torch.as_tensor(idx, device=device)
        return total_variation_loss(chosen("tv_loss", "idx", self.grids, index.reshape(-1), True, self.sparse))

    def forward(
        self,
        grid_xy: torch.Tensor | str | None,
        rgb: torch.Tensor,
        idx: torch.Tensor | int | None = None,
        compute_coords_grad: bool = True,
        actual_height: int | None = None,
        actual_width: int | None = None,
        patch_offsets: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Look the grids' matrices up, as ``lib_bilagrid`` does.

        Parameters
        ----------
        grid_xy : tensor (..., 2), "centers", "corners" or None
            Coordinates as in :func:`slice`.
        rgb : tensor (..., 3)
        idx : tensor (b,) or int, optional
            The grid of each element along the first axis of ``rgb``; by default they are all grids in order.
        compute_coords_grad, actual_height, actual_width, patch_offsets
            As in :func:`slice`.

        Returns
        -------
        tensor (..., 3, 4)
        """
        patch = (actual_height, actual_width, patch_offsets)
        xy = coordinates("BilateralGrid", self.grids, grid_xy, rgb, compute_coords_grad, *patch)
        index = all_in_order("BilateralGrid", self.grids, rgb) if idx is None else idx
        gray = self._gray()
        return look_up("BilateralGrid", self.grids, xy, rgb, index, gray, name="idx", sparse=self.sparse).matrices()


class Sliced(dict[str, torch.Tensor]):
    """What :func:`slice` returns: a dict whose ``"rgb_affine_mats"`` is computed when first read, in whatever way.

    It is pickled and copied as a dict, and PyTorch's trees have its values as leaves.
    """

    # Until it is read, a value's place holds a _Later. C code that copies a dict asks subclasses that define __iter__
    # for their items, and those that don't it does not.

    def _read(self, *keys: str) -> Sliced:
        """With the values of these keys, or all, computed."""
        for key in keys or super().keys():
            value: Any = super().get(key)
            if isinstance(value, _Later):
                self[key] = value()
        return self

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(dict(self), memo)

    def __reduce__(self) -> Any:
        return OrderedDict, (), None, None, iter(self.items())  # which torch.load takes with weights_only


def _once_read(name: str, keys: int) -> Callable[..., Any]:
    """A dict's method that is called once the values of its first ``keys`` arguments, or all values, are computed."""
    method = getattr(dict, name)

    @functools.wraps(method)
    def once_read(sliced: Sliced, *given: Any) -> Any:
        return method(sliced._read(*given[:keys]), *given)

    return once_read


for _name in ("__getitem__", "get", "pop", "setdefault"):
    setattr(Sliced, _name, _once_read(_name, 1))
for _name in ("items", "values", "popitem", "copy", "__eq__", "__ne__", "__or__", "__ror__", "__repr__"):
    setattr(Sliced, _name, _once_read(_name, 0))
Sliced.__copy__ = Sliced.copy  # type: ignore[attr-defined]


_pytree.register_pytree_node(
    Sliced,
    lambda sliced: (list(sliced.values()), list(sliced)),
    lambda values, keys: Sliced(zip(keys, values)),
    serialized_type_name=f"{__name__}.Sliced",
    flatten_with_keys_fn=lambda sliced: ([(_pytree.MappingKey(k), v) for k, v in sliced.items()], list(sliced)),
)


class _Later:
    """The matrices of a lookup, to be computed as they would have been at the call; or one sentence."""

    def __init__(self, lookup: Lookup) -> None:
        self._recording = torch.is_grad_enabled()
        self._lookup = lookup.kept()
        self._versions = self._lookup.versions()

    def __call__(self) -> torch.Tensor:
        for name, now in self._lookup.versions().items():
            if now != self._versions[name]:
                raise RuntimeError(
                    f'slice: {name} must not change before "rgb_affine_mats" is read, got a tensor written to '
                    f"since the call; read it before, or pass {name}.clone()."
                )
        with torch.set_grad_enabled(self._recording):
            return self._lookup.matrices()


def slice(
    bil_grids: nn.Module | torch.Tensor,
    xy: torch.Tensor | str | None,
    rgb: torch.Tensor,
    grid_idx: torch.Tensor | int,
    compute_coords_grad: bool = True,
    actual_height: int | None = None,
    actual_width: int | None = None,
    patch_offsets: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Look colours' matrices up in bilateral grids, and apply them.

    Parameters
    ----------
    bil_grids : BilateralGrid, module or tensor (N, 12, L, H, W)
        A module that is more than a :class:`BilateralGrid` (a wrapper as ``DistributedDataParallel``, a subclass with
        a ``forward`` of its own, hooks) is called with coordinates, colours and numbers of grids, as ``lib_bilagrid``
        calls it, and returns the matrices.
    xy : tensor (..., 2), "centers", "corners" or None
        Coordinates in [0, 1]. Images that cover their views need none: "centers" has pixel i of n at (i+½)/n, as
        gsplat's mesh, and "corners", which None says too, at i/(n−1).
    rgb : tensor (..., 3)
        Colours of two to five axes, as told above; float16 | bfloat16 | float32 | float64.
    grid_idx : tensor or int
        The grid: the same number for all, or one for each element along the first axis of ``rgb``, ``(b,)`` or with
        more axes, of which the first number counts.
    compute_coords_grad : bool
        Whether ``xy`` gets a gradient, where it requires one.
    actual_height, actual_width, patch_offsets : int, int, tensor (..., 2), optional
        All three: every image in ``rgb`` is a patch of a view of that size, with its first pixel at the offsets
        ``(x, y)``, in pixels, one pair an image. ``xy`` is then not looked at.

    Returns
    -------
    dict
        ``"rgb"``, a tensor like ``rgb``, and ``"rgb_affine_mats"``, a tensor (..., 3, 4) that is computed when it is
        first read, of what the arguments were at the call. Of ``rgb`` and ``xy`` it needs what is in them still: what
        PyTorch counts as written to since is refused; what it does not, as a write by ``.data``, is not noticed.

    Raises
    ------
    ValueError
        A shape that does not fit, or some of the three arguments for patches without the others.
    TypeError
        Unsupported dtypes.
    IndexError
        A grid that is not there. Negative numbers count from the last one.
    RuntimeError
        When ``"rgb_affine_mats"`` is read: ``rgb`` or ``xy`` was written to since the call.

    Notes
    -----
    A colour that is NaN, or at a place that is, gives NaN. As with ``grid_sample`` it adds nothing to the gradient of
    the grids; its own, and that of its place, is 0.

    Rays and patches of several grids are sorted by grid; their sums are those of the flat form ``(n, 3)``, bit for bit.
    """
    patch = (actual_height, actual_width, patch_offsets)
    gray, sparse = None, False
    module: Any = bil_grids
    if isinstance(module, torch.Tensor):
        grids = module
    elif _is_no_more_than_its_grids(module):
        grids, gray, sparse = module.grids, module._gray(), module.sparse
    else:
        xy = coordinates("slice", rgb, xy, rgb, compute_coords_grad, *patch)
        places, colors, index = in_original_form("slice", grid_idx, xy, rgb)
        matrices = module(places, colors, index).reshape(*rgb.shape[:-1], 3, 4)
        return {"rgb": color_affine_transform(matrices, rgb), "rgb_affine_mats": matrices}
    xy = coordinates("slice", grids, xy, rgb, compute_coords_grad, *patch)
    lookup = look_up("slice", grids, xy, rgb, grid_idx, gray, sparse=sparse)
    result = {"rgb": lookup.colors()}
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:  # what nobody reads is left out
        return result | {"rgb_affine_mats": lookup.matrices()}
    later: Any = _Later(lookup)
    return Sliced(result, rgb_affine_mats=later)


def _is_no_more_than_its_grids(module: Any) -> bool:
    """Whether calling a module does what a lookup in its grids does."""
    return (
        isinstance(module, BilateralGrid)
        and type(module).forward is BilateralGrid.forward
        and "forward" not in module.__dict__
        and not (module._forward_pre_hooks or module._forward_hooks)
        and not (module._backward_pre_hooks or module._backward_hooks)
        and not nn.modules.module._has_any_global_hook()
    )


def slice4d(bil_grid4d: nn.Module, xyz: torch.Tensor, rgb: torch.Tensor) -> dict[str, torch.Tensor]:
    """Look colours' matrices up in a grid over space and gray, and apply them.

    Parameters
    ----------
    bil_grid4d : BilateralGridCP4D, or a module that is called as one
    xyz, rgb : tensor (..., 3)
        Places in space, and their colours.

    Returns
    -------
    dict
        ``"rgb"``, a tensor (..., 3), and ``"rgb_affine_mats"``, a tensor (..., 3, 4).
    """
    matrices = bil_grid4d(xyz, rgb)
    return {"rgb": color_affine_transform(matrices, rgb), "rgb_affine_mats": matrices}


def total_variation_loss(x: torch.Tensor) -> torch.Tensor:
    """How rough grids are on average: for each axis the mean squared difference of neighbours, summed over the axes.

        loss = 1/N Σ_n Σ_axes mean (x[n, c, …, i+1, …] − x[n, c, …, i, …])²

    Parameters
    ----------
    x : tensor (N, C, ...), such as (N, 12, L, H, W)
        An axis of one cell adds 0.

    Returns
    -------
    tensor ()

    Raises
    ------
    ValueError
        Less than two axes.
    """
    return roughness("total_variation_loss", x)


def bilateral_grid_tv_loss(model: Any, config: Any) -> torch.Tensor | float:
    """The :func:`total_variation_loss` of the grids in ``model.bil_grids``, times ``config.bilgrid_tv_loss_mult``.

    Parameters
    ----------
    model : object
        ``bil_grids`` are its modules with ``grids``.
    config : object

    Returns
    -------
    tensor ()
    """
    return sum(config.bilgrid_tv_loss_mult * total_variation_loss(module.grids) for module in model.bil_grids)


def color_affine_transform(affine_mats: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Apply matrices to colours.

        out_i = Σ_j affine_mats[..., i, j]·rgb[..., j] + affine_mats[..., i, 3]

    Parameters
    ----------
    affine_mats : tensor (..., 3, 4)
    rgb : tensor (..., 3)
        The leading axes are broadcast to one another.

    Returns
    -------
    tensor (..., 3)
    """
    lead = torch.broadcast_shapes(affine_mats.shape[:-2], rgb.shape[:-1])
    matrices, colors = affine_mats.expand(*lead, *affine_mats.shape[-2:]), rgb.expand(*lead, rgb.shape[-1])
    return apply(_images(matrices, 2), _images(colors, 1)).reshape(*lead, matrices.shape[-2])
