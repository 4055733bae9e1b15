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


#: A thread's number in the launch is its block's times this plus its own, so that shifts tell its block and warp.
_BLOCK_BITS, _WARP_BITS = 11, 5
BLOCK = 1 << _BLOCK_BITS


class Log:
    def __init__(self, enabled: bool):
        self.enabled = enabled
        self._global: list[tuple[Any, ...]] = []
        self._shared: list[tuple[Any, ...]] = []

    def add_global(self, batch: Any, what: str, offset: Any, size: int, threads: Any, site: int) -> None:
        if self.enabled:
            instruction = batch.code.sites[site]
            if what == "load" and not {"volatile", "relaxed"}.isdisjoint(instruction.opcode):
                what = "atomic load"
            when = batch.number, batch.epoch, batch.warp_epoch
            self._global.append((_KINDS[what], offset, size, threads, *when, instruction.text))

    def add_shared(self, batch: Any, what: str, offset: Any, size: int, threads: Any, site: int) -> None:
        if self.enabled:
            when = batch.number, batch.epoch, batch.warp_epoch
            self._shared.append((_KINDS[what], offset, size, threads, *when, batch.code.sites[site].text))

    def check_shared(self) -> None:
        """Judge shared memory. Only between barriers of all blocks, or at their end."""
        entries, self._shared = self._shared, []
        if any(entry[0] & CHANGES for entry in entries):
            _judge(entries, "shared memory")

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
                    part.append(entry)
                elif mine.any():
                    kind, offset, size, threads, *when = entry
                    part.append((kind, offset[mine], size, threads[mine], *when))
            _judge(part, "global memory")


def _judge(entries: list[tuple[Any, ...]], where: str) -> None:
    # The largest piece that no access cuts: all are aligned, and their sizes are powers of two.
    unit = min(entry[2] for entry in entries)
    shift = unit.bit_length() - 1
    # Of every access, one for each piece: where, and by which thread of its batch.
    places, threads = [], []
    for _, offset, size, thread, *_ in entries:
        place = offset >> shift
        if size > unit:
            place = (place[:, None] + np.arange(size >> shift)).reshape(-1)
            thread = np.repeat(thread, size >> shift)
        places.append(place)
        threads.append(thread)
    low = min(int(place.min()) for place in places)
    count = max(int(place.max()) for place in places) + 1 - low

    # Only places that were written to, and accessed by several threads.
    written, several = np.zeros((2, count), bool)
    for entry, place in zip(entries, places):
        place -= low
        if entry[0] & CHANGES:
            written[place] = True
    parts = []
    for i, (entry, place, thread) in enumerate(zip(entries, places, threads)):
        chosen = written[place].nonzero()[0]
        if len(chosen):
            place, thread = place[chosen], thread[chosen]
            number, epoch, warp_epoch = (values[thread] for values in entry[4:7])
            parts.append((place, number, epoch, warp_epoch, np.full(len(place), i)))
    place, who, epoch, warp_epoch, entry_of = map(np.concatenate, zip(*parts))
    last = np.empty(count, np.int64)  # a thread that accessed each
    last[place] = who
    several[place[last[place] != who]] = True
    kind = np.array([entry[0] for entry in entries], np.int8)[entry_of]
    contested = several[place]

    # Mostly those are of one warp, whose barriers part them: what it makes of a place between two of them is no change,
    # or one thread's.
    turn, turns = warp_epoch - warp_epoch.min(), int(np.ptp(warp_epoch)) + 1
    if not np.ptp(epoch) and count * turns <= 4 * len(place):
        warp, turn = who >> _WARP_BITS, place * turns + turn
        last[place] = warp
        several[...] = False
        several[place[last[place] != warp]] = True
        changed, shared = np.zeros((2, count * turns), bool)
        last = np.empty(count * turns, np.int64)
        last[turn] = who
        shared[turn[last[turn] != who]] = True
        changed[turn[kind & CHANGES != 0]] = True
        contested &= several[place] | (changed & shared)[turn]

    contested = contested.nonzero()[0]
    if not len(contested):
        return
    place, who, epoch, warp_epoch, entry_of, kind = (
        a[contested] for a in (place, who, epoch, warp_epoch, entry_of, kind)
    )

    def fail(group: Any) -> None:
        pairs = (
            (int(i), int(j))
            for i in group[(kind[group] & CHANGES) != 0]
            for j in group[(who[group] != who[i]) & ((kind[group] | kind[i]) & PLAIN != 0)][:1]
        )
        if (pair := next(pairs, None)) is None:
            return  # the same thread has changed the place atomically and read it plainly
        write, other = pair
        texts = [entries[int(entry_of[i])][-1] for i in (write, other)]
        names = [f"thread {int(who[i]) % BLOCK} of block {int(who[i]) // BLOCK}" for i in (write, other)]
        raise Race(
            f"{where}: {names[0]} {_WORDS[int(kind[write])]} what {names[1]} {_WORDS[int(kind[other])]}, and nothing "
            f"orders the two: {texts[0]} / {texts[1]}"
        )

    # 1. Blocks are never ordered. 2. Threads of a block are ordered by barriers. 3. Lanes of a warp by warp barriers.
    block, warp = who >> _BLOCK_BITS, who >> _WARP_BITS
    of_place = place
    of_block = _joined(of_place, block, epoch)
    of_warp = _joined(of_block, warp, warp_epoch)
    order = np.argsort(_joined(of_warp, who))  # each group is a run, and in it each member
    for key, member in ((of_place, block), (of_block, warp), (of_warp, who)):
        key, member = key[order], member[order]
        ends = np.append(np.flatnonzero(key[1:] != key[:-1]), len(key) - 1)
        starts = np.append(0, ends[:-1] + 1)
        differs = member[starts] != member[ends]
        if not differs.any():
            continue
        bad = differs & (np.bitwise_or.reduceat(kind[order], starts) == CHANGES | PLAIN)
        for which in np.flatnonzero(bad):
            fail(np.sort(order[starts[which] : ends[which] + 1]))


def _joined(key: Any, *more: Any) -> Any:
    """Numbers that are in the order of these tuples, and equal where they are."""
    for values in more:
        low = values.min()
        count = int(values.max()) - int(low) + 1
        if count > 1:
            if (int(key.max()) + 1) * count >= 1 << 63:
                key = np.unique(key, return_inverse=True)[1]
            key = key * count + (values - low)
    return key
