"""Train a field of colours on photographs of changing exposure, each with a bilateral grid, and read the exposures off.

    pip install '.[torch]'
    python examples/exposures.py --views 12 --steps 400

The scene is a wall, so that nothing but the field has to be trained: colours at the points of a mesh. Each photograph
shows a part of it with an exposure and a white balance of its own, which a field alone cannot explain. Rays of all
photographs are drawn at random, as a trainer of radiance fields does; the loss of roughness holds the grids smooth.

A grid can brighten what the field has dark: exposures are known but for a factor that all of them share. A photograph
that was not trained on has no grid, and is compared after ``color_correct`` has given the rendering its colours.
"""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

import torch
from torch.nn.functional import grid_sample

from bilateral_ops.compat.lib_bilagrid import BilateralGrid, color_correct, slice, total_variation_loss

SIZE = 48  # of a photograph


class Scene(NamedTuple):
    """Photographs (V, SIZE, SIZE, 3), where their pixels lie on the wall, (V, SIZE, SIZE, 2), and gains (V, 3)."""

    photographs: torch.Tensor
    places: torch.Tensor
    gains: torch.Tensor


def wall(places: torch.Tensor) -> torch.Tensor:
    """The true colours at places in [−1, 1]²."""
    x, y = places.unbind(-1)
    waves = [torch.sin(5 * x + c) * torch.cos(4 * y - 2 * c) + 0.4 * torch.sin(9 * x * y + 2 * c) for c in range(3)]
    return 0.3 + 0.15 * torch.stack(waves, -1)


def photographed(views: int) -> Scene:
    """Overlapping parts of the wall, with exposures up to a stop more or less, warmer or colder."""
    line = torch.linspace(-0.6, 0.6, SIZE)
    middle = torch.rand(views, 1, 1, 2) * 0.8 - 0.4
    places = middle + torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    stops, warmth = torch.linspace(-1, 0.6, views)[torch.randperm(views)], 0.2 * torch.rand(views) - 0.1
    gains = 2 ** (stops[:, None] + warmth[:, None] * torch.tensor([1.0, 0.0, -1.0]))
    return Scene((wall(places) * gains[:, None, None]).clamp(0, 1), places, gains)


def rendered(field: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The field (1, 3, n, n) at places (..., 2): what a renderer of a radiance field does."""
    flat = grid_sample(field, places.reshape(1, 1, -1, 2), align_corners=True)
    return flat[0, :, 0].T.reshape(*places.shape[:-1], 3)


def trained(scene: Scene, steps: int, rays: int = 2048) -> tuple[torch.Tensor, BilateralGrid]:
    """The field and the grids."""
    views = len(scene.photographs)
    field = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    grids = BilateralGrid(views, grid_X=4, grid_Y=4, grid_W=4)
    optimizer = torch.optim.Adam([{"params": [field], "lr": 2e-2}, {"params": grids.parameters(), "lr": 1e-2}])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.05 ** (1 / steps))
    for _ in range(steps):
        view, y, x = torch.randint(views, (rays,)), *torch.randint(SIZE, (2, rays))
        xy = torch.stack([x, y], -1) / (SIZE - 1)
        colors = rendered(field, scene.places[view, y, x])
        exposed = slice(grids, xy, colors, view[:, None])["rgb"]
        loss = (exposed - scene.photographs[view, y, x]).square().mean() + 0.02 * total_variation_loss(grids.grids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return field.detach(), grids


@torch.no_grad()
def gains_found(scene: Scene, field: torch.Tensor, grids: BilateralGrid) -> torch.Tensor:
    """How much brighter each grid makes what it is given, by channel (V, 3)."""
    colors = rendered(field, scene.places)
    exposed = slice(grids, None, colors, torch.arange(len(colors)))["rgb"]
    return exposed.mean((1, 2)) / colors.mean((1, 2))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--views", type=int, default=12, help="photographs to train on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of the optimizer (default: %(default)s)")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    every = photographed(options.views + 1)
    scene, heldout = (Scene(*(part[where] for part in every)) for where in (torch.arange(options.views), [-1]))
    field, grids = trained(scene, options.steps)

    wanted, found = (torch.log2(gains) for gains in (scene.gains, gains_found(scene, field, grids)))
    wanted, found = (stops - stops.mean(0) for stops in (wanted, found))
    print("exposure in stops, by channel, beside the mean of all views")
    for view, (a, b) in enumerate(zip(wanted.tolist(), found.tolist())):
        print(f"view {view:3}   true {a[0]:+.2f} {a[1]:+.2f} {a[2]:+.2f}   found {b[0]:+.2f} {b[1]:+.2f} {b[2]:+.2f}")
    error = (wanted - found).abs().max().item()
    print(f"largest error: {error:.3f} stops")

    rendering, photograph = rendered(field, heldout.places), heldout.photographs
    plain, corrected = psnr(rendering, photograph), psnr(color_correct(rendering, photograph), photograph)
    print(f"a view that was held out: {plain:.1f} dB, {corrected:.1f} dB with its colours corrected")
    return {"error": error, "plain": plain, "corrected": corrected}


if __name__ == "__main__":
    main()
