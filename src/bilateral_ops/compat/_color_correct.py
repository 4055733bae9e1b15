"""The colours of one image given to another: what radiance fields are measured by."""

from __future__ import annotations

from typing import Any

import torch

#: Pixels that color_correct expands at a time, so that it needs no memory that grows with the image.
_CHUNK = 1 << 15


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
