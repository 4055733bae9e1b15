"""The bilateral grids of radiance fields, as trainers import them from ``lib_bilagrid`` or ``fused_bilagrid``.

    from bilateral_ops.compat.lib_bilagrid import BilateralGrid, color_correct, slice, total_variation_loss

Every view of a scene has a grid of 3 × 4 colour matrices, all of them stored ``(N, 12, L, H, W)``: entries of the
matrices row by row, depth, height, width. A colour is looked up at its pixel's ``(x, y)`` in [0, 1] and at its BT.601
luma, where 0 and 1 are the centres of the first and the last cell (``align_corners``); positions outside are clamped.

Colours may be

    (n, 3)              rays, each with the grid that ``grid_idx (n, 1)`` names, or all with one
    (b, n, 3)           b rows of rays with a grid each, or an image h × w with one
    (b, h, w, 3)        b images with a grid each, or all with one
    (b, m, h, w, 3)     b groups of m images

and ``xy`` has the same axes, or axes of size 1 that stand for all. Where images cover their views from corner pixel to
corner pixel, ``xy=None`` says so.

Gradients are those of ``torch.nn.functional.grid_sample``: to the grids, to the colours (through their luma, too), and
to ``xy`` where asked for.

Source: Wang et al., Bilateral Guided Radiance Field Processing, SIGGRAPH 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .._core.missing import needed
from ..ops._apply import apply
from ..ops._guide_luma import LumaGuide, guide_luma
from ..ops._slice import slice as _slice
from ..ops._slice_apply import slice_apply
from ..ops._total_variation import total_variation

with needed("bilateral_ops.compat.lib_bilagrid", "torch", "torch"):
    import torch
    from torch import nn

    from ..frameworks.torch import followed

__all__ = ["BilateralGrid", "color_affine_transform", "color_correct", "slice", "total_variation_loss"]

#: Pixels that color_correct expands at a time, so that it needs no memory that grows with the image.
_CHUNK = 1 << 15


class BilateralGrid(nn.Module):
    """Bilateral grids of ``num`` views, each ``grid_Y`` × ``grid_X`` × ``grid_W`` (depth) cells; at first the identity.

    Parameters
    ----------
    num : int
    grid_X, grid_Y, grid_W : int
        Cells along the image's width, along its height, and in depth.

    Attributes
    ----------
    grids : Parameter (num, 12, grid_W, grid_Y, grid_X)

    Notes
    -----
    Checkpoints of ``lib_bilagrid`` and of ``fused_bilagrid`` load, and its own load there: the buffer
    ``rgb2gray_weight``, which only the former have, is kept for that and for nothing else.
    """

    def __init__(self, num: int, grid_X: int = 16, grid_Y: int = 16, grid_W: int = 8) -> None:
        super().__init__()
        self.grid_width, self.grid_height, self.grid_guidance = grid_X, grid_Y, grid_W
        identity = torch.eye(3, 4).reshape(1, 12, 1, 1, 1)
        self.grids = nn.Parameter(identity.repeat(num, 1, grid_W, grid_Y, grid_X))
        self.register_buffer("rgb2gray_weight", torch.tensor([[0.299, 0.587, 0.114]]))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}rgb2gray_weight", self.rgb2gray_weight)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def rgb2gray(self, rgb: torch.Tensor) -> torch.Tensor:
        """The luma of colours ``(..., 3)`` as ``(..., 1)``, from −1 for black to 1 for white."""
        return guide_luma(_images(rgb, 1)).reshape(*rgb.shape[:-1], 1) * 2 - 1

    def tv_loss(self) -> torch.Tensor:
        """:func:`total_variation_loss` of the grids."""
        return total_variation_loss(self.grids)

    def forward(
        self, grid_xy: torch.Tensor | None, rgb: torch.Tensor, idx: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Look the grids' matrices up, as ``lib_bilagrid`` does. (``fused_bilagrid``'s returns colours: :func:`slice`.)

        Parameters
        ----------
        grid_xy : tensor (..., 2), or None
            Coordinates as in :func:`slice`; they get a gradient.
        rgb : tensor (..., 3)
        idx : tensor (b,) or int, optional
            The grid of each element along the first axis of ``rgb``; by default they are all grids in order.

        Returns
        -------
        tensor (..., 3, 4)
        """
        index = torch.arange(len(self.grids), device=self.grids.device) if idx is None else idx
        return _lookup("BilateralGrid", self.grids, grid_xy, rgb, index).matrices()


class Sliced(Mapping[str, torch.Tensor]):
    """What :func:`slice` returns: ``"rgb"``, and ``"rgb_affine_mats"``, which is computed when first read."""

    def __init__(self, lookup: _Lookup) -> None:
        self._values = {"rgb": lookup.colors()}
        self._recording = torch.is_grad_enabled()
        self._lookup = lookup.kept()
        self._versions = self._lookup.versions()

    def __getitem__(self, key: str) -> torch.Tensor:
        if key == "rgb_affine_mats" and key not in self._values:
            for (name, now), then in zip(self._lookup.versions().items(), self._versions.values()):
                if now != then:
                    raise RuntimeError(
                        f'slice: {name} must not change before "rgb_affine_mats" is read, got a tensor written to '
                        f"since the call; read it before, or pass {name}.clone()."
                    )
            with torch.set_grad_enabled(self._recording):  # as it was when the call was made
                self._values[key] = self._lookup.matrices()
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("rgb", "rgb_affine_mats"))

    def __len__(self) -> int:
        return 2


def slice(
    bil_grids: BilateralGrid,
    xy: torch.Tensor | None,
    rgb: torch.Tensor,
    grid_idx: torch.Tensor | int,
    compute_coords_grad: bool = False,
    actual_height: int | None = None,
    actual_width: int | None = None,
    patch_offsets: torch.Tensor | None = None,
) -> Sliced:
    """Look colours' matrices up in bilateral grids, and apply them.

    Parameters
    ----------
    bil_grids : BilateralGrid
    xy : tensor (..., 2), or None
        Coordinates in [0, 1]; None for images that cover their views, whose corner pixels are at 0 and 1.
    rgb : tensor (..., 3)
        Colours of two to five axes, as told above; float16 | bfloat16 | float32 | float64.
    grid_idx : tensor or int
        The grid: the same number for all, or one for each element along the first axis of ``rgb``, ``(b,)`` or with
        more axes, of which the first number counts.
    compute_coords_grad : bool
        Whether ``xy`` gets a gradient.
    actual_height, actual_width, patch_offsets : int, int, tensor (..., 2), optional
        All three: every image in ``rgb`` is a patch of a view of that size, with its first pixel at the offsets
        ``(x, y)``, in pixels, one pair an image. ``xy`` is then not looked at.

    Returns
    -------
    mapping
        ``"rgb"``, a tensor like ``rgb``, and ``"rgb_affine_mats"``, a tensor (..., 3, 4) that is computed when it is
        first read, of what the arguments were at the call. Of ``rgb`` and ``xy`` it needs what is in them still: what
        PyTorch counts as written to since is refused; what it does not, as a write by ``.data``, is not noticed.

    Raises
    ------
    ValueError
        A shape that does not fit, or some of the three arguments for patches without the others.
    TypeError
        Unsupported dtypes, or dtypes that do not go together.
    IndexError
        A grid that is not there. Negative numbers count from the last one.
    RuntimeError
        ``"rgb_affine_mats"``, where ``rgb`` or ``xy`` was written to since the call.

    Notes
    -----
    A colour that is NaN, or at a place that is, gives NaN. As with ``grid_sample`` it adds nothing to the gradient of
    the grids; its own, and that of its place, is 0.
    """
    patch = (actual_height, actual_width, patch_offsets)
    if patch_offsets is not None and actual_height is not None and actual_width is not None:
        xy = _patch_coordinates(bil_grids.grids, rgb, int(actual_height), int(actual_width), patch_offsets)
    elif any(given is not None for given in patch):
        missing = [
            name for name, given in zip(("actual_height", "actual_width", "patch_offsets"), patch) if given is None
        ]
        raise ValueError(
            "slice: actual_height, actual_width and patch_offsets must be given together, got no "
            f"{' and no '.join(missing)}."
        )
    elif xy is not None and not compute_coords_grad:
        xy = xy.detach()
    return Sliced(_lookup("slice", bil_grids.grids, xy, rgb, grid_idx))


def total_variation_loss(x: torch.Tensor) -> torch.Tensor:
    """How rough grids are on average: for each axis the mean squared difference of neighbours, summed over the axes.

        loss = 1/N Σ_n Σ_axes mean (x[n, c, …, i+1, …] − x[n, c, …, i, …])²

    Parameters
    ----------
    x : tensor (N, C, ...) with one to three axes of cells, such as (N, 12, L, H, W)
        An axis of one cell adds 0.

    Returns
    -------
    tensor ()

    Raises
    ------
    ValueError
        Another number of axes.
    """
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"total_variation_loss: x must have shape (N, C, ...) of 3 to 5 axes, got {tuple(x.shape)}.")
    return total_variation(_channels_last(x[(..., *[None] * (5 - x.ndim))])).mean()


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


def color_correct(img: torch.Tensor, ref: torch.Tensor, num_iters: int = 5, eps: float = 0.5 / 255) -> torch.Tensor:
    """Give ``img`` the colours of ``ref`` by the quadratic function of its channels that fits best.

    Each channel of the result is a least-squares combination of the products of two channels, the channels and 1,
    fitted to the pixels where ``img``, ``ref`` and what the last round made of ``img`` are all unclipped, and clipped
    to [0, 1]; the next round goes on from there. A pixel of ``img`` that is not finite in all its channels is left out,
    and of ``ref`` one that is not in this channel.

    Parameters
    ----------
    img, ref : tensor (..., C)
        Values in [0, 1] of the same pixels.
    num_iters : int
        The number of rounds.
    eps : float
        Values within [eps, 1 − eps] are unclipped.

    Returns
    -------
    tensor like ``img``

    Raises
    ------
    ValueError
        Channels or pixels of ``ref`` that are not as many as those of ``img``.

    Notes
    -----
    The normal equations are summed and solved in double precision; where pixels do not determine the fit, as those of
    a grey image, it is the smallest of all that fit.
    """
    channels = img.shape[-1]
    if ref.shape[-1] != channels or ref.numel() != img.numel():
        raise ValueError(
            f"color_correct: ref must have as many pixels and channels as img, {tuple(img.shape)}, "
            f"got {tuple(ref.shape)}."
        )
    if not img.numel():
        return img.clone()
    original, target = img.reshape(-1, channels), ref.reshape(-1, channels)
    first, second = torch.triu_indices(channels, channels, device=img.device)

    def unclipped(values: torch.Tensor) -> torch.Tensor:
        return (values >= eps) & (values <= 1 - eps)

    def expanded(values: torch.Tensor) -> torch.Tensor:
        """The terms of the combinations, [term][pixel]."""
        rows = values.T.to(torch.float64, memory_format=torch.contiguous_format)
        return torch.cat([rows[first] * rows[second], rows, torch.ones_like(rows[:1])])

    current = original
    for _ in range(num_iters):
        gram: Any = 0
        moment: Any = 0
        parts = [tensor.split(_CHUNK) for tensor in (original, current, target)]
        for before, now, wanted in zip(*parts):
            terms = expanded(now)
            finite = terms.isfinite().all(0)
            terms = terms.masked_fill(~finite, 0)
            used = (unclipped(before) & unclipped(now) & unclipped(wanted)).T & finite
            chosen = terms * used[:, None]
            gram = gram + chosen @ terms.T
            moment = moment + chosen @ wanted.T.double().masked_fill(~used, 0)[..., None]
        fit = torch.linalg.pinv(gram, hermitian=True) @ moment
        current = torch.cat([(fit[..., 0] @ expanded(now)).clamp(0, 1).T.to(img.dtype) for now in parts[1]])
    return current.reshape(img.shape)


# --- one lookup, whatever the axes


class _Lookup(NamedTuple):
    """Colours as images (N, H, W, 3), with a grid and coordinates for each; ``restore`` gives results their axes.

    ``plain`` says that the numbers may be looked at; ``guide`` is the colours' luma, where it is kept.
    """

    grid: torch.Tensor
    xy: torch.Tensor | None
    rgb: torch.Tensor
    restore: Callable[[torch.Tensor], torch.Tensor]
    plain: bool
    guide: torch.Tensor | None = None

    def colors(self) -> torch.Tensor:
        return self.restore(slice_apply(self.grid, LumaGuide(), self.rgb, xy=self.xy, align_corners=True))

    def matrices(self) -> torch.Tensor:
        guide = guide_luma(self.rgb) if self.guide is None else self.guide
        return self.restore(_slice(self.grid, guide, xy=self.xy, align_corners=True))

    def kept(self) -> _Lookup:
        """The same for later: where PyTorch does not count what is written into tensors, with numbers of its own."""
        xy, rgb = self.xy, self.rgb
        if self.plain and not rgb.is_inference() and (xy is None or not xy.is_inference()):
            return self
        return self._replace(xy=xy if xy is None else xy.clone(), guide=guide_luma(rgb))

    def versions(self) -> dict[str, int]:
        """How often the tensors that ``matrices`` reads were written to, by name."""
        if self.guide is not None:
            return {}
        return {"rgb": self.rgb._version} | ({} if self.xy is None else {"xy": self.xy._version})


def _lookup(op: str, grids: torch.Tensor, xy: torch.Tensor | None, rgb: torch.Tensor, index: Any) -> _Lookup:
    if not 2 <= rgb.ndim <= 5 or rgb.shape[-1] != 3:
        raise ValueError(f"{op}: rgb must have shape (..., 3) of 2 to 5 axes, got {tuple(rgb.shape)}.")
    lead = rgb.shape[:-1]
    if xy is not None:
        if xy.ndim != rgb.ndim or xy.shape[-1] != 2 or any(n not in (1, m) for n, m in zip(xy.shape, lead)):
            wanted = (*lead, 2)
            raise ValueError(f"{op}: xy must have shape {wanted} to match rgb, got {tuple(xy.shape)}.")
    elif rgb.ndim == 2:
        raise ValueError(f"{op}: xy must be given for rays, got None.")
    given = (grids, rgb) if xy is None else (grids, rgb, xy)
    plain = not torch.compiler.is_compiling() and not followed(given)
    recorded = (
        rgb.is_floating_point()
        and torch.is_grad_enabled()
        and (not plain or any(tensor.requires_grad for tensor in given))
    )
    nowhere = _nowhere(xy, rgb) if recorded and _may_hold_nan(given[1:], plain) else None
    xy = xy if xy is None else xy.expand(*lead, 2)
    if nowhere is None:
        return _placed(op, grids, xy, rgb, index, plain)

    def filled(x: torch.Tensor, value: float) -> torch.Tensor:
        return x.masked_fill(nowhere[(..., *[None] * (x.ndim - nowhere.ndim))], value)

    lookup = _placed(op, grids, xy if xy is None else filled(xy, 0), filled(rgb, 0), index, plain)
    return lookup._replace(restore=lambda out: filled(lookup.restore(out), math.nan))


def _may_hold_nan(tensors: Sequence[torch.Tensor], plain: bool) -> bool:
    """Asked of their sums, which takes little time; True where one can't ask, or would have to wait for a device."""
    if not plain or not tensors[0].is_cpu:
        return True
    return any(math.isnan(tensor.detach().sum().item()) for tensor in tensors)


def _nowhere(xy: torch.Tensor | None, rgb: torch.Tensor) -> torch.Tensor:
    """Which colours (...) have a NaN for their place in the grid."""
    found = rgb.detach().sum(-1).isnan()  # as the luma, which has ∞ − ∞ where the sum has
    return found if xy is None else found | xy.detach().isnan().any(-1)


def _placed(
    op: str, grids: torch.Tensor, xy: torch.Tensor | None, rgb: torch.Tensor, index: Any, plain: bool
) -> _Lookup:
    """The lookup of colours and coordinates (...) of the same axes."""
    lead = rgb.shape[:-1]
    one, index = _indices(op, index, lead[0], grids)
    if not one and rgb.ndim == 3 and xy is None and len(index):
        one = bool((index == index[:1]).all())  # an image then, not rows of rays
        if not one:
            raise ValueError(f"{op}: xy must be given for rays of several grids, got None.")
        index = index[:1]
    if not one and rgb.ndim == 2:
        return _rays(op, grids, xy, rgb, index, plain)

    cells = _matrices(op, grids, index, plain)
    if not one and rgb.ndim == 3:
        rgb, xy = rgb[:, None], xy if xy is None else xy[:, None]
    images = _images(rgb, 1)
    each = len(images) // max(1, len(cells))
    return _Lookup(
        cells[:, None].expand(-1, each, *cells.shape[1:]).flatten(0, 1),
        xy if xy is None else _images(xy, 1),
        images,
        lambda out: out.reshape(*lead, *out.shape[3:]),
        plain,
    )


def _rays(op: str, grids: torch.Tensor, xy: Any, rgb: torch.Tensor, index: torch.Tensor, plain: bool) -> _Lookup:
    """Rays of several grids, as images of one row and one grid each.

    They are sorted by grid and cut into rows as long as a grid has rays on average: at most two rows a grid, and two
    pixels a ray, but for rounding. What a row has left over repeats its grid's last ray and is not looked at.

    Where nobody can look at the index, or would have to wait for a device, all grids count as used, and there are as
    many rows as may be needed; the last ones may repeat the last ray of all.
    """
    count, device = len(rgb), rgb.device
    seen = (plain and rgb.is_cpu) or not count
    if seen:
        used, grid_of = torch.unique(index, return_inverse=True)
    else:
        used, grid_of = torch.arange(len(grids), device=device), index + (index < 0) * len(grids)
    grid_of_ray, order = grid_of.sort(stable=True)
    numbers = torch.arange(len(used), device=device)
    first_ray, end_ray = (torch.searchsorted(grid_of_ray, numbers, right=right) for right in (False, True))
    most = min(count, len(used))  # grids that have rays
    width = max(1, -(-count // max(1, most)))
    rows = (end_ray - first_ray + width - 1) // width
    end_row = rows.cumsum(0)
    first_row = end_row - rows

    row = torch.arange(int(rows.sum()) if seen else count // width + most, device=device)
    grid_of_row = torch.searchsorted(end_row, row, right=True)
    if not seen:
        grid_of_row = torch.minimum(grid_of_row, grid_of_ray[-1])
    wanted = first_ray[grid_of_row] + (row - first_row[grid_of_row]) * width
    source = order[torch.minimum(wanted[:, None] + torch.arange(width, device=device), end_ray[grid_of_row, None] - 1)]

    place = torch.empty_like(order)
    begins = (first_row * width - first_ray).index_select(0, grid_of_ray)  # refuses a grid that is not there
    place[order] = begins + torch.arange(count, device=device)
    return _Lookup(
        _matrices(op, grids, used[grid_of_row], plain),
        xy[source][:, None],
        rgb[source][:, None],
        lambda out: out.flatten(0, 2)[place],
        plain,
    )


def _patch_coordinates(
    grids: torch.Tensor, rgb: torch.Tensor, height: int, width: int, offsets: torch.Tensor
) -> torch.Tensor:
    """Where patches (..., h, w, 3) of a view lie in it, (..., h, w, 2)."""
    *lead, h, w, _ = rgb.shape if rgb.ndim > 2 else (0, *rgb.shape)
    if rgb.ndim < 3 or offsets.numel() != 2 * math.prod(lead):
        raise ValueError(
            f"slice: patch_offsets must have two numbers for each image in rgb, {tuple(rgb.shape)}, "
            f"got shape {tuple(offsets.shape)}."
        )
    kind = torch.promote_types(rgb.dtype, grids.dtype)
    offsets = _sent(offsets, rgb.device).reshape(*lead, 1, 1, 2)
    x = offsets[..., 0] + torch.arange(w, device=rgb.device)
    y = offsets[..., 1] + torch.arange(h, device=rgb.device)[:, None]
    places = torch.broadcast_tensors(x.to(kind) / max(1, width - 1), y.to(kind) / max(1, height - 1))
    return torch.stack(places, -1)


def _indices(op: str, index: Any, count: int, grids: torch.Tensor) -> tuple[bool, torch.Tensor]:
    """Whether one grid serves all, and the grids' numbers (1,), or (count,)."""
    if not isinstance(index, torch.Tensor):
        index = torch.tensor(index)
    index = _sent(index, grids.device)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{op}: grid_idx must be integers, got {index.dtype}.")
    if index.numel() == 1:
        return True, index.reshape(1).long()
    if index.shape[:1] != (count,):
        first = index.reshape(-1)[:1]
        if first.numel() and bool((index == first).all()):
            return True, first.long()
        raise ValueError(
            f"{op}: grid_idx must have one number, or {count} along its first axis to match rgb, "
            f"got shape {tuple(index.shape)}."
        )
    while index.ndim > 1:
        index = index[:, 0]
    return False, index.long()


def _sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device. From the host without waiting for the device, and of a copy that nobody can write to meanwhile."""
    return x.clone().to(device, non_blocking=True) if x.is_cpu and x.device != device else x.to(device)


def _matrices(op: str, grids: torch.Tensor, index: torch.Tensor, plain: bool) -> torch.Tensor:
    """Some grids as (n, H, W, L, 3, 4), with a matrix's entries side by side, as lookups at any place want them."""
    count = len(grids)
    if len(index) == 1 and (not plain or index.is_cuda or -count <= index.item() < 0):
        index = index + (index < 0) * count
    try:
        # Of both ways the first is the faster one, which does not count from the last grid; the gradients of several
        # are added in a fixed order by the second alone.
        chosen = grids.index_select(0, index) if len(index) == 1 and count else grids[index]
    except IndexError:  # of the CPU's tensors
        missing = index[(index < -count) | (index >= count)]
        raise IndexError(
            f"{op}: grid_idx must name one of {count} grids, from {-count} to {count - 1}, got {missing[0].item()}."
            if count
            else f"{op}: grid_idx must name a grid, of which there are none, got {missing[0].item()}."
        ) from None
    return _channels_last(chosen).unflatten(-1, (3, 4)).contiguous()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """(N, C, L, H, W) to (N, H, W, L, C)."""
    return x.permute(0, 3, 4, 2, 1)


def _images(x: torch.Tensor, trailing: int) -> torch.Tensor:
    """Any number of axes before the last ``trailing`` ones, to three."""
    lead = x.ndim - trailing
    return x[(None,) * (3 - lead)] if lead < 3 else x.flatten(0, lead - 3)
