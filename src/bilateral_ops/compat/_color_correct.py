"""The colours of one image given to another: what radiance fields are measured by."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from ..frameworks.torch import followed

#: Numbers that a part of an image is expanded to at a time: in the cache, and no memory that grows with the image.
_EXPANDED = 1 << 18


def pixels_of(op: str, img: torch.Tensor, ref: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixels (n, C) of two images, which must have as many and of as many channels."""
    channels = img.shape[-1]
    if ref.shape[-1] != channels or ref.numel() != img.numel():
        raise ValueError(
            f"{op}: ref must have as many pixels and channels as img, {tuple(img.shape)}, got {tuple(ref.shape)}."
        )
    return img.reshape(math.prod(img.shape[:-1]), channels), ref.reshape(math.prod(ref.shape[:-1]), channels)


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
    a grey image, it is the smallest of all that fit. For gradients only the images between the rounds are kept.
    """
    original, target = pixels_of("color_correct", img, ref)
    if not img.numel() or not num_iters:
        return img.clone()
    recorded = torch.is_grad_enabled() and (img.requires_grad or ref.requires_grad)
    others = torch.compiler.is_compiling() or followed((img, ref)) or forward_ad._current_level >= 0
    run = _Recomputed.apply if recorded and not others else _plain
    with torch.set_grad_enabled(recorded or (others and torch.is_grad_enabled())):
        corrected = _corrected(original, target, num_iters, eps, run)
    return corrected.reshape(img.shape)


def _corrected(original: torch.Tensor, target: torch.Tensor, count: int, eps: float, run: Any) -> torch.Tensor:
    """What the rounds make of an image (P, C); ``run(function, *tensors)`` calls what expands its pixels."""
    now, channels = original, original.shape[-1]
    usable = _usable(original, target, eps)
    for _ in range(count):
        # Split here and again below: what a part's gradient is asked for must not be made of another part.
        parts = zip(_parts(now), _parts(target), _parts(usable))
        sums = functools.reduce(torch.add, (run(functools.partial(_sums, eps=eps), *part) for part in parts))
        fit = _fit(sums, channels)
        now = torch.cat([run(_mapped, part, fit) for part in _parts(now)])
    return now


def _plain(function: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
    return function(*given)


class _Recomputed(torch.autograd.Function):
    """A function of tensors that is computed again for its gradient: of what is between nothing is kept."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
        ctx.function = function
        ctx.save_for_backward(*given)
        return function(*given)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        again, needed = torch.is_grad_enabled(), ctx.needs_input_grad[1:]  # whether derivatives are wanted, too
        with torch.enable_grad():
            given = [x if again else x.detach().requires_grad_(n) for x, n in zip(ctx.saved_tensors, needed)]
            wanted = [x for x, n in zip(given, needed) if n]
            found = iter(torch.autograd.grad(ctx.function(*given), wanted, grad, create_graph=again))
        return None, *(next(found) if n else None for n in needed)


def _usable(original: torch.Tensor, target: torch.Tensor, eps: float) -> torch.Tensor:
    """Where a fit may look, whatever the rounds make of the image."""
    return _unclipped(original, eps) & _unclipped(target, eps)


def _unclipped(values: torch.Tensor, eps: float) -> torch.Tensor:
    return (values >= eps) & (values <= 1 - eps)


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of an image (P, C)."""
    if torch.compiler.is_compiling():
        return (tensor,)
    return tensor.split(max(1, _EXPANDED // math.comb(tensor.shape[-1] + 4, 4)))


def _sums(now: torch.Tensor, target: torch.Tensor, usable: torch.Tensor, eps: float) -> torch.Tensor:
    """Of the pixels that each channel's fit may look at: Σ monomial and Σ monomial · target, (2, C, monomial).

    The entries of the normal equations are monomials of four factors at most, fewer than there are entries.
    """
    rows = _centred(now)
    finite = rows.sum(0).isfinite()
    used = (usable & _unclipped(now, eps)).T & finite
    weights = torch.cat([used.double(), _rows(target).masked_fill(~used, 0)])
    return (weights @ _products(rows.masked_fill(~finite, 0), 4).T).unflatten(0, (2, -1))


def _fit(sums: torch.Tensor, channels: int) -> torch.Tensor:
    """The combinations (C, term) that fit best, by the normal equations."""
    gram = sums[0][:, torch.tensor(_places(channels), device=sums.device)]
    moments = sums[1, :, -gram.shape[-1] :, None]
    return (torch.linalg.pinv(gram, hermitian=True) @ moments)[..., 0]


def _mapped(now: torch.Tensor, fit: torch.Tensor) -> torch.Tensor:
    return (fit @ _products(_centred(now), 2)).clamp(0, 1).T.to(now.dtype)


def _centred(values: torch.Tensor) -> torch.Tensor:
    """About ½, so that the terms depend less on one another, and the equations lose fewer digits."""
    return _rows(values) - 0.5


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.T.to(torch.float64, memory_format=torch.contiguous_format)


def _products(rows: torch.Tensor, degree: int) -> torch.Tensor:
    """All products of up to ``degree`` of the rows, in the order of ``_monomials``.

    They are made row by row: PyTorch's threads, who would wait for one another at each of many small steps, meet at the
    matrix products alone.
    """
    monomials = _monomials(len(rows), degree)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or followed((rows,)):
        found: dict[tuple[int, ...], torch.Tensor] = {(): torch.ones_like(rows[0])}
        for product in monomials[-2::-1]:
            found[product] = rows[product[0]] * found[product[1:]]
        return torch.stack([found[product] for product in monomials])
    result = rows.new_empty(len(monomials), rows.shape[1])
    places = dict(zip(monomials, result))
    places[()].fill_(1)
    for product in monomials[-2::-1]:
        torch.mul(rows[product[0]], places[product[1:]], out=places[product])
    return result


def _monomials(channels: int, degree: int) -> list[tuple[int, ...]]:
    """The factors of all products of up to ``degree`` channels."""
    # As combinations_with_replacement would say it, which torch.compile does not know before PyTorch 2.14.
    factors = (itertools.product(range(channels), repeat=count) for count in range(degree, -1, -1))
    return [chosen for chosen in itertools.chain.from_iterable(factors) if list(chosen) == sorted(chosen)]


def _places(channels: int) -> list[list[int]]:
    """Which of the monomials of four factors the product of any two terms is, [term][term]."""
    place = {product: i for i, product in enumerate(_monomials(channels, 4))}
    terms = _monomials(channels, 2)
    return [[place[tuple(sorted(a + b))] for b in terms] for a in terms]
