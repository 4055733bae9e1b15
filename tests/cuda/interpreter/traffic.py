"""What accesses cost, as hardware counts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SECTOR, BANKS, WORD = 32, 32, 4


@dataclass
class Count:
    requests: int = 0  # instructions of warps
    bytes: int = 0  # that threads asked for
    units: int = 0  # sectors of global, wavefronts of shared memory


@dataclass
class Traffic:
    """Counts by space and kind: `counts["global", "load"]`."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    _sectors: dict[str, list[Any]] = field(default_factory=dict)  # by kind: (block, sector) as an integer

    def __getitem__(self, key: tuple[str, str]) -> Count:
        return self.counts.setdefault(key, Count())

    def sectors(self, what: str) -> int:
        """Of global memory, each once for each block that touches it: what is moved where a block's second access of a
        sector finds it in the cache."""
        parts = self._sectors.get(what)
        return len(np.unique(np.concatenate(parts))) if parts else 0

    def add(self, batch: Any, space: str, what: str, address: Any, size: int, threads: Any) -> None:
        space = "global" if space == "const" else space
        count = self[space, what]
        warp = batch.warp[threads].astype(np.int64)
        count.requests += len(np.unique(warp))
        count.bytes += len(threads) * size
        if space == "global":
            # An aligned access lies in one sector, if it is no larger.
            parts = [address // SECTOR + i for i in range(-(-size // SECTOR))]
            for sectors in parts:
                count.units += len(np.unique((warp << 40) + (sectors & ((1 << 40) - 1))))
                mine = (batch.block[threads].astype(np.int64) << 40) + (sectors & ((1 << 40) - 1))
                self._sectors.setdefault(what, []).append(np.unique(mine))
        elif space == "shared":
            count.units += _wavefronts(warp, batch.lane[threads], address, size)


def _wavefronts(warp: Any, lane: Any, address: Any, size: int) -> int:
    """A warp's access is cut into halves or quarters where lanes ask for 8 or 16 bytes; of each part, distinct words of
    one bank come one after the other."""
    words = max(size // WORD, 1)
    part = warp * words + lane // (32 // words)
    part, word = np.repeat(part, words), (address[:, None] // WORD + np.arange(words)).reshape(-1)
    place = np.unique((part << 40) + word)
    part, bank = place >> 40, (place & ((1 << 40) - 1)) % BANKS
    first = part.min()
    hits = np.bincount((part - first) * BANKS + bank, minlength=(part.max() - first + 1) * BANKS)
    return int(hits.reshape(-1, BANKS).max(1).sum())
