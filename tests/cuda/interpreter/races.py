"""Which accesses of a launch nothing orders.

Two accesses to the same byte, one of them a write and not both atomic, race unless one thread makes both, or threads of
one block with a barrier between them, or threads of one warp with `__syncwarp` between them. A load of global memory
that is volatile or relaxed counts as atomic: it may see any of the values, and what it sees is for the kernel to bear.
Accesses are noted while a launch runs and judged when it (for shared memory: an interval between barriers) is over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import Race
from .memory import Memory

CHANGES, PLAIN = 1, 2  # bits of a kind of access: it changes memory; it is not atomic
_KINDS = {"load": PLAIN, "store": CHANGES | PLAIN, "atomic": CHANGES, "atomic load": 0}
_WORDS = {PLAIN: "loads", CHANGES | PLAIN: "stores", CHANGES: "atomically changes", 0: "atomically loads"}


class Log:
    def __init__(self, enabled: bool):
        self.enabled = enabled
        self._global: list[tuple[Any, ...]] = []
        self._shared: list[tuple[Any, ...]] = []

    def add_global(self, batch: Any, what: str, offset: Any, size: int, threads: Any, site: int) -> None:
        if self.enabled:
            who = threads, batch.block, batch.lin, batch.epoch, batch.warp_epoch
            instruction = batch.code.sites[site]
            if what == "load" and not {"volatile", "relaxed"}.isdisjoint(instruction.opcode):
                what = "atomic load"
            self._global.append((_KINDS[what], offset, size, *who, instruction.text))

    def add_shared(self, batch: Any, what: str, offset: Any, size: int, threads: Any, site: int) -> None:
        if self.enabled:
            who = threads, batch.block, batch.lin, batch.epoch, batch.warp_epoch
            self._shared.append((_KINDS[what], offset, size, *who, batch.code.sites[site].text))

    def check_shared(self) -> None:
        """Judge shared memory. Only between barriers of all blocks, or at their end."""
        entries, self._shared = self._shared, []
        if any(entry[0] & CHANGES for entry in entries):
            _judge(list(map(_with_threads, entries)), "shared memory")

    def check_global(self, memory: Memory) -> None:
        """Judge global memory, allocation by allocation: what was not written cannot race."""
        entries, self._global = self._global, []
        starts = np.array(memory.starts or [0])

        def allocations(entry: tuple[Any, ...]) -> Any:
            return np.searchsorted(starts, entry[1], "right") - 1

        owners = [allocations(entry) for entry in entries]
        written = {int(i) for entry, owner in zip(entries, owners) if entry[0] & CHANGES for i in np.unique(owner)}
        for allocation in written:
            part = []
            for entry, owner in zip(entries, owners):
                mine = owner == allocation
                if mine.all():
                    part.append(_with_threads(entry))
                elif mine.any():
                    kind, offset, size, threads, *of_batch = entry
                    part.append(_with_threads((kind, offset[mine], size, threads[mine], *of_batch)))
            _judge(part, "global memory")


def _with_threads(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    """An entry with what its threads were, and not what all threads of the batch were."""
    kind, offset, size, threads, *of_batch, text = entry
    return (kind, offset, size, *(values[threads] for values in of_batch), text)


def _judge(entries: list[tuple[Any, ...]], where: str) -> None:
    # The largest piece that no access cuts: a power of two, as sizes are. Shifts are much faster than divisions.
    unit = min(entry[2] for entry in entries)
    for entry in entries:
        while unit > 1 and (entry[1] & unit - 1).any():
            unit //= 2
    shift = unit.bit_length() - 1
    low = min(int(entry[1].min()) for entry in entries) >> shift
    count = max((int(entry[1].max()) + entry[2] - 1) >> shift for entry in entries) + 1 - low

    def spread(entry: tuple[Any, ...], values: Any) -> Any:
        """A value per access as one per unit that it covers."""
        return values if entry[2] == unit else np.repeat(values, entry[2] >> shift)

    # Only places that were written to, and accessed by several threads.
    places, threads = [], []
    written, several = np.zeros(count, bool), np.zeros(count, bool)
    last = np.empty(count, np.int64)  # a thread that accessed each
    for entry in entries:
        kind, offset, size, block, thread = entry[:5]
        first = (offset >> shift) - low
        places.append(first if size == unit else (first[:, None] + np.arange(size >> shift)).reshape(-1))
        threads.append(spread(entry, block.astype(np.int64) * 2048 + thread))
        last[places[-1]] = threads[-1]
        if kind & CHANGES:
            written[places[-1]] = True
    for at, who in zip(places, threads):
        several[at[last[at] != who]] = True
    contested = written & several
    if not contested.any():
        return
    columns: list[list[Any]] = [[] for _ in range(8)]
    for number, (entry, at, who) in enumerate(zip(entries, places, threads)):
        chosen = contested[at]
        fixed = np.full(len(at), entry[0], np.int8), np.full(len(at), number, np.int32)
        for column, values in zip(columns, (at, who, *(spread(entry, values) for values in entry[3:7]), *fixed)):
            column.append(values[chosen])
    place, who, block, thread, epoch, warp_epoch, kind, number = (np.concatenate(column) for column in columns)

    def fail(group: Any) -> None:
        write, other = next(
            (int(i), int(j))
            for i in group[(kind[group] & CHANGES) != 0]
            for j in group[(who[group] != who[i]) & ((kind[group] | kind[i]) & PLAIN != 0)][:1]
        )
        texts = [entries[int(number[i])][7] for i in (write, other)]
        names = [f"thread {int(thread[i])} of block {int(block[i])}" for i in (write, other)]
        raise Race(
            f"{where}: {names[0]} {_WORDS[int(kind[write])]} what {names[1]} {_WORDS[int(kind[other])]}, and nothing "
            f"orders the two: {texts[0]} / {texts[1]}"
        )

    # 1. Blocks are never ordered. 2. Threads of a block are ordered by barriers. 3. Lanes of a warp by warp barriers.
    for keys, member in (
        ((place,), block),
        ((place, block, epoch), thread // 32),
        ((place, block, epoch, thread // 32, warp_epoch), thread),
    ):
        order = np.lexsort(keys[::-1])
        changes = np.zeros(len(order), bool)
        changes[0] = True
        for key in keys:
            changes[1:] |= np.diff(key[order]) != 0
        group = np.cumsum(changes) - 1
        starts = np.flatnonzero(changes)
        members, kinds = member[order], kind[order]
        differs = np.minimum.reduceat(members, starts) != np.maximum.reduceat(members, starts)
        bad = differs & (np.bitwise_or.reduceat(kinds, starts) == CHANGES | PLAIN)
        if bad.any():
            which = int(np.flatnonzero(bad)[0])
            fail(order[group == which])
