"""What ``lib_bilagrid`` and ``fused_bilagrid`` share: colours of any axes, looked up in grids (N, 12, L, H, W)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..frameworks.torch import followed
from ..ops._guide_luma import LumaGuide, guide_luma
from ..ops._slice import slice as _slice
from ..ops._slice_apply import slice_apply
from ..ops._total_variation import total_variation

#: What turns colours (..., 3) into gray (..., 1) from −1 to 1; None for their BT.601 luma.
Gray = Callable[[torch.Tensor], torch.Tensor] | None
#: Where colours are: coordinates (..., 2), their rule as ``slice`` takes it, or None for the corners of whole views.
Places: TypeAlias = "torch.Tensor | str | None"


class Lookup(NamedTuple):
    """Colours as images (N, H, W, 3), with coordinates for each; ``restore`` gives results their axes.

    Each image has the grid that ``grid_of`` names, or there are as many grids as images. ``guide`` is None where it is
    the colours' luma; ``plain`` says that the numbers may be looked at, ``given`` that ``rgb`` and ``xy`` may be the
    caller's own.
    """

    grid: torch.Tensor
    grid_of: torch.Tensor | None
    xy: Any  # Places
    rgb: torch.Tensor
    guide: torch.Tensor | None
    restore: Callable[[torch.Tensor], torch.Tensor]
    plain: bool
    given: bool = True

    def colors(self) -> torch.Tensor:
        guide = LumaGuide() if self.guide is None else self.guide
        places: Any = {"xy": self.xy, "index": self.grid_of, "align_corners": True}
        return self.restore(slice_apply(self.grid, guide, self.rgb, **places))

    def matrices(self) -> torch.Tensor:
        return self.restore(_slice(self.grid, self._guide(), xy=self.xy, index=self.grid_of, align_corners=True))

    def _guide(self) -> torch.Tensor:
        """An array, of the grid's dtype."""
        if self.guide is not None:
            return self.guide.to(self.grid.dtype)
        return guide_luma(self.rgb.to(self.grid.dtype) if self.rgb.is_floating_point() else self.rgb)

    def kept(self) -> Lookup:
        """The same for later: where PyTorch does not count what is written into tensors, with numbers of its own."""
        xy, rgb = self.xy, self.rgb
        placed = isinstance(xy, torch.Tensor)
        counted = self.plain and not rgb.is_inference() and not (placed and xy.is_inference())
        if counted or not self.given:
            return self
        return self._replace(xy=xy.clone() if placed else xy, guide=self._guide(), given=False)

    def versions(self) -> dict[str, int]:
        """How often the caller's tensors that ``matrices`` reads were written to, by name."""
        read = {"xy": self.xy} | ({"rgb": self.rgb} if self.guide is None else {})
        return {
            name: tensor._version for name, tensor in read.items() if self.given and isinstance(tensor, torch.Tensor)
        }


class Grids(torch.nn.Module):
    """What the modules called BilateralGrid are: grids (num, 12, L, H, W), at first the identity."""

    def __init__(self, num: int, grid_X: int = 16, grid_Y: int = 16, grid_W: int = 8) -> None:
        super().__init__()
        self.grid_width, self.grid_height, self.grid_guidance = grid_X, grid_Y, grid_W
        identity = torch.eye(3, 4).reshape(1, 12, 1, 1, 1)
        self.grids = torch.nn.Parameter(identity.repeat(num, 1, grid_W, grid_Y, grid_X))


def all_in_order(op: str, grids: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """The numbers of all grids, each of which has the colours at its place along the first axis."""
    if len(rgb) != len(grids):
        wanted = f"as many elements along its first axis as there are grids, {len(grids)}"
        raise ValueError(f"{op}: rgb must have {wanted}, got shape {tuple(rgb.shape)}.")
    return torch.arange(len(grids), device=grids.device)


def coordinates(
    op: str,
    grids: torch.Tensor,
    xy: Places,
    rgb: torch.Tensor,
    compute_coords_grad: bool,
    actual_height: int | None,
    actual_width: int | None,
    patch_offsets: torch.Tensor | None,
) -> Places:
    """Where colours are, from the arguments that callers have for it."""
    if patch_offsets is not None and actual_height is not None and actual_width is not None:
        return _patch_coordinates(op, grids, rgb, int(actual_height), int(actual_width), patch_offsets)
    patch = {"actual_height": actual_height, "actual_width": actual_width, "patch_offsets": patch_offsets}
    missing = [name for name, given in patch.items() if given is None]
    if len(missing) < len(patch):
        raise ValueError(
            f"{op}: actual_height, actual_width and patch_offsets must be given together, got no "
            f"{' and no '.join(missing)}."
        )
    if isinstance(xy, str) and xy not in ("centers", "corners"):
        raise ValueError(f"{op}: xy must be a tensor, 'centers', 'corners' or None, got {xy!r}.")
    return xy.detach() if isinstance(xy, torch.Tensor) and not compute_coords_grad else xy


def look_up(
    op: str,
    grids: torch.Tensor,
    xy: Places,
    rgb: torch.Tensor,
    index: Any,
    gray: Gray = None,
    *,
    name: str = "grid_idx",
    sparse: bool = False,
) -> Lookup:
    """The lookup of colours (..., 3) in the grids that ``index`` names, which the caller calls ``name``.

    The gradient of the grids is dense, or sparse with rows of the grids that were looked up.
    """
    if grids.ndim != 5 or grids.shape[1] != 12:
        raise ValueError(f"{op}: grids must have shape (N, 12, L, H, W), got {tuple(grids.shape)}.")
    if not 2 <= rgb.ndim <= 5 or rgb.shape[-1] != 3:
        raise ValueError(f"{op}: rgb must have shape (..., 3) of 2 to 5 axes, got {tuple(rgb.shape)}.")
    lead = rgb.shape[:-1]
    rule, xy = (xy, None) if isinstance(xy, str) else (None, xy)
    if xy is not None:
        if xy.ndim != rgb.ndim or xy.shape[-1] != 2 or any(n not in (1, m) for n, m in zip(xy.shape, lead)):
            wanted = (*lead, 2)
            raise ValueError(f"{op}: xy must have shape {wanted} to match rgb, got {tuple(xy.shape)}.")
    elif rgb.ndim == 2:
        raise ValueError(f"{op}: xy must be given for rays, got {rule!r}.")
    given = (grids, rgb) if xy is None else (grids, rgb, xy)
    plain = not torch.compiler.is_compiling() and not followed(given)
    grids, xy, rgb = _of_dtypes_that_go_together(grids, xy, rgb)
    recorded = (
        rgb.is_floating_point()
        and torch.is_grad_enabled()
        and (not plain or any(tensor.requires_grad for tensor in given))
    )
    nowhere = _nowhere(xy, rgb) if recorded and _may_hold_nan(given[1:], plain) else None
    if xy is not None:
        xy = xy.expand(*lead, 2)

    def filled(x: torch.Tensor, value: float) -> torch.Tensor:
        return x if nowhere is None else x.masked_fill(nowhere[(..., *[None] * (x.ndim - nowhere.ndim))], value)

    rgb, xy = filled(rgb, 0), xy if xy is None else filled(xy, 0)
    guide = None if gray is None else (gray(rgb)[..., 0] + 1) / 2
    one, index = _indices(op, name, index, lead[0], grids)
    lookup = _placed(op, name, grids, xy, rgb, guide, one, index, plain, sparse)
    if rule is not None:
        lookup = lookup._replace(xy=rule)
    return lookup if nowhere is None else lookup._replace(restore=lambda out: filled(lookup.restore(out), math.nan))


def in_original_form(
    op: str, grid_idx: Any, xy: Places, rgb: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Coordinates, colours and numbers of grids as the original calls a module: of one grid with an axis for it."""
    lead = rgb.shape[:-1]
    one, index = _indices(op, "grid_idx", grid_idx, lead[0], rgb)
    places = _mesh(op, xy, rgb) if isinstance(xy, str) else xy
    places = places if places is None else places.expand(*lead, 2)
    if one and rgb.ndim < 5:
        return places if places is None else places[None], rgb[None], index
    return places, rgb, index


def roughness(op: str, x: torch.Tensor) -> torch.Tensor:
    """For each axis after the second the mean squared difference of neighbours, summed; the mean over the first."""
    if x.ndim < 2:
        raise ValueError(f"{op}: x must have shape (N, C, ...), got {tuple(x.shape)}.")
    x = x[(..., *[None] * (3 - min(3, x.ndim - 2)))]
    losses: Any = 0
    for first in range(2, x.ndim, 3):  # three axes at a time, beside which the others are channels
        axes = range(first, min(first + 3, x.ndim))
        cells = x.movedim(tuple(axes), tuple(range(-len(axes), 0))).flatten(1, -len(axes) - 1)
        losses = losses + total_variation(_channels_last(cells[(..., *[None] * (3 - len(axes)))])).mean()
    return losses


def _of_dtypes_that_go_together(
    grids: torch.Tensor, xy: torch.Tensor | None, rgb: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Of the grids' dtype; beside 16-bit grids all are float32, and 16-bit colours stay so beside float32 grids."""
    short = (torch.float16, torch.bfloat16)
    if rgb.is_floating_point() and rgb.dtype != grids.dtype and not (rgb.dtype in short and grids.dtype == torch.float):
        grids = grids.float() if grids.dtype in short else grids
        rgb = rgb.to(grids.dtype)
    return grids, xy if xy is None else xy.to(grids.dtype), rgb


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
    op: str,
    name: str,
    grids: torch.Tensor,
    xy: torch.Tensor | None,
    rgb: torch.Tensor,
    guide: torch.Tensor | None,
    one: bool,
    index: torch.Tensor,
    plain: bool,
    sparse: bool,
) -> Lookup:
    """The lookup of colours, coordinates and guide (...) of the same axes, of one grid or of one for each element."""
    lead = rgb.shape[:-1]

    def restore(out: torch.Tensor) -> torch.Tensor:
        return out.reshape(*lead, *out.shape[3:])

    if not one and rgb.ndim == 3 and xy is None and len(index):
        one = bool((index == index[:1]).all())  # an image then, not rows of rays
        if not one:
            raise ValueError(f"{op}: xy must be given for rays of several grids, got None.")
        index = index[:1]
    # An element of fewer pixels than a grid has cells is no reason to copy a grid.
    if not one and xy is not None and math.prod(lead[1:]) < math.prod(grids.shape[2:]):
        shape = (len(index), 1, math.prod(lead[1:]))
        if sparse or (plain and rgb.is_cpu):
            used, index = torch.unique(index, return_inverse=True)
            cells = _entries_side_by_side(chosen(op, name, grids, used, plain, sparse))
        else:  # which are used, one would have to wait for a device to know, or can't ask
            cells, index = _entries_side_by_side(grids), index + (index < 0) * len(grids)
        guide = guide if guide is None else guide.reshape(shape)
        return Lookup(cells, index, xy.reshape(*shape, 2), rgb.reshape(*shape, 3), guide, restore, plain)

    cells = _entries_side_by_side(chosen(op, name, grids, index, plain, sparse))
    if not one and rgb.ndim == 3:
        rgb = rgb[:, None]
        xy, guide = (x if x is None else x[:, None] for x in (xy, guide))
    images = _images(rgb, 1)
    each = len(images) // max(1, len(cells))
    grid_of = None
    if one:
        cells = cells.expand(len(images), *cells.shape[1:])
    elif each != 1:
        grid_of = torch.arange(len(cells), device=rgb.device).repeat_interleave(each)
    return Lookup(
        cells,
        grid_of,
        xy if xy is None else _images(xy, 1),
        images,
        guide if guide is None else _images(guide, 0),
        restore,
        plain,
    )


def _mesh(op: str, rule: str, rgb: torch.Tensor) -> torch.Tensor:
    """The coordinates that a rule says, for images (..., h, w, 3)."""
    if rgb.ndim < 3:
        raise ValueError(f"{op}: xy must be given for rays, got {rule!r}.")

    def along(count: int) -> torch.Tensor:
        i = torch.arange(count, device=rgb.device, dtype=torch.float64)
        return ((i + 0.5) / count if rule == "centers" else i / max(1, count - 1)).to(rgb.dtype)

    height, width = rgb.shape[-3:-1]
    return torch.stack(torch.meshgrid(along(width), along(height), indexing="xy"), -1)[(None,) * (rgb.ndim - 3)]


def _patch_coordinates(
    op: str, grids: torch.Tensor, rgb: torch.Tensor, height: int, width: int, offsets: torch.Tensor
) -> torch.Tensor:
    """Where patches (..., h, w, 3) of a view lie in it, (..., h, w, 2)."""
    *lead, h, w, _ = rgb.shape if rgb.ndim > 2 else (0, *rgb.shape)
    if rgb.ndim < 3 or offsets.numel() != 2 * math.prod(lead):
        raise ValueError(
            f"{op}: patch_offsets must have two numbers for each image in rgb, {tuple(rgb.shape)}, "
            f"got shape {tuple(offsets.shape)}."
        )
    kind = torch.promote_types(rgb.dtype, grids.dtype)
    offsets = _sent(offsets, rgb.device).reshape(*lead, 1, 1, 2)
    x = offsets[..., 0] + torch.arange(w, device=rgb.device)
    y = offsets[..., 1] + torch.arange(h, device=rgb.device)[:, None]
    places = torch.broadcast_tensors(x.to(kind) / max(1, width - 1), y.to(kind) / max(1, height - 1))
    return torch.stack(places, -1)


def _indices(op: str, name: str, index: Any, count: int, beside: torch.Tensor) -> tuple[bool, torch.Tensor]:
    """Whether one grid serves all, and the grids' numbers (1,), or (count,), on the device of another tensor."""
    if not isinstance(index, torch.Tensor):
        index = torch.tensor(index)
    index = _sent(index, beside.device)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{op}: {name} must be integers, got {index.dtype}.")
    if index.numel() == 1:
        return True, index.reshape(1).long()
    if index.shape[:1] != (count,):
        first = index.reshape(-1)[:1]
        if first.numel() and bool((index == first).all()):
            return True, first.long()
        raise ValueError(
            f"{op}: {name} must have one number, or {count} along its first axis to match rgb, "
            f"got shape {tuple(index.shape)}."
        )
    while index.ndim > 1:
        index = index[:, 0]
    return False, index.long()


def _sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device. From the host without waiting for the device, and of a copy that nobody can write to meanwhile."""
    return x.clone().to(device, non_blocking=True) if x.is_cpu and x.device != device else x.to(device)


class _Rows(torch.autograd.Function):
    """Some rows of a tensor, with a sparse gradient. PyTorch's ``embedding`` has one for matrices alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.index_select(0, index)  # refuses what is not there

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(index[None], grads[0], ctx.shape, check_invariants=False), None


_rows: Any = _Rows.apply


def chosen(op: str, name: str, grids: torch.Tensor, index: torch.Tensor, plain: bool, sparse: bool) -> torch.Tensor:
    """Some grids. The gradient is dense, or sparse with rows of these."""
    count, given = len(grids), index
    if sparse or (len(index) == 1 and (not plain or index.is_cuda or -count <= index.item() < 0)):
        index = index + (index < 0) * count
    try:
        if sparse:
            return _rows(grids, index)
        # Of both ways the first is the faster one, which does not count from the last grid; the gradients of several
        # are added in a fixed order by the second alone.
        return grids.index_select(0, index) if len(index) == 1 and count else grids[index]
    except IndexError:  # of the CPU's tensors
        missing = given[(given < -count) | (given >= count)]
        raise IndexError(
            f"{op}: {name} must name one of {count} grids, from {-count} to {count - 1}, got {missing[0].item()}."
            if count
            else f"{op}: {name} must name a grid, of which there are none, got {missing[0].item()}."
        ) from None


def _entries_side_by_side(grids: torch.Tensor) -> torch.Tensor:
    """Grids as (n, H, W, L, 3, 4), with a matrix's entries side by side, as lookups at any place want them."""
    return _channels_last(grids).unflatten(-1, (3, 4)).contiguous()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """(N, C, L, H, W) to (N, H, W, L, C)."""
    return x.permute(0, 3, 4, 2, 1)


def _images(x: torch.Tensor, trailing: int) -> torch.Tensor:
    """Any number of axes before the last ``trailing`` ones, to three."""
    lead = x.ndim - trailing
    return x[(None,) * (3 - lead)] if lead < 3 else x.flatten(0, lead - 3)
