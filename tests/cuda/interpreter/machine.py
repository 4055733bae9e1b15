"""A launch, run: all threads of some blocks advance together, block by block of code, the earliest first.

Threads that part at a branch wait for one another at the earliest block of code that any of them is in, so they
meet again where the paths do. Nothing depends on that: a barrier or a shuffle is executed when those that it names are
there.
"""

from __future__ import annotations

import builtins
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
from numpy import count_nonzero  # much faster than any() of few elements

from . import arithmetic, exact
from .errors import (
    BadMask,
    BarrierError,
    KernelError,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    Unsupported,
)
from .memory import Memory
from .parse import Instruction, Kernel
from .races import BLOCK, Log
from .traffic import Traffic
from .translate import WINDOWS, Code, Translator, View

WARP = 32
#: Bytes of registers that one batch of blocks may take.
REGISTER_BYTES = 192 << 20

#: Blocks of code that a batch may run through.
MOST_STEPS = 1_000_000

Mask = Any  # True, or a vector of bool: the threads that execute something

_WINDOW_NAMES = {start >> 60: name for name, start in WINDOWS.items()}

_codes: weakref.WeakKeyDictionary[Any, Code] = weakref.WeakKeyDictionary()


def code_of(kernel: Kernel) -> Code:
    """The kernel's translation, which is made once."""
    if kernel not in _codes:
        _codes[kernel] = Translator(kernel).translate()
    return _codes[kernel]


@dataclass
class Launch:
    """What a launch is made of, and what it was found to do."""

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: bytes
    dynamic_shared: int = 0
    traffic: Traffic | None = None  # where given, it is added to
    races: bool = True  # look for races
    seed: int = 0  # of the order of blocks
    together: int | None = None  # blocks that run at once; None: as many as memory allows
    stream: int = 0
    name: str = field(default="")
    instructions: int = 0  # of PTX that were run, each once for each warp that a thread of ran it

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


def run(launch: Launch, memory: Memory) -> None:
    """Run a launch to its end."""
    kernel = launch.kernel
    if len(launch.parameters) != kernel.parameter_bytes:
        raise KernelError(f"{kernel.name} takes {kernel.parameter_bytes} bytes, given {len(launch.parameters)}")
    code = code_of(kernel)
    log = Log(launch.races)
    order = np.random.default_rng(launch.seed).permutation(launch.blocks)
    register_bytes = sum(size * rows for size, rows in code.rows.items()) + kernel.local_bytes + 64
    limit = launch.together or max(1, min(REGISTER_BYTES // (register_bytes * launch.threads), 1 << 16))
    limit = min(limit, max(1, (1 << 17) // launch.threads)) if launch.together is None else limit
    for start in range(0, launch.blocks, limit):
        Batch(launch, code, memory, log, order[start : start + limit]).run()
    try:
        log.check_global(memory)
    except Race as error:
        raise Race(f"{kernel.name}: {error}") from None


_register_memory = np.empty(0, np.uint8)


class Registers:
    """A kernel's registers, for so many threads: always in the same memory, whose pages are there. And its code, as
    functions that are bound to them."""

    def __init__(self, code: Code, n: int):
        global _register_memory
        rows = code.rows
        wanted = sum(size * count * n for size, count in rows.items())
        if wanted > len(_register_memory):
            _register_memory = np.empty(max(wanted, 2 * len(_register_memory)), np.uint8)
        self.memory, self.n = _register_memory, n
        self.banks: dict[int, Any] = {}  # bytes → the registers of that size
        start = 0
        for size in sorted(rows, reverse=True):
            end = start + size * rows[size] * n
            self.banks[size] = self.memory[start:end].view(f"u{size}").reshape(rows[size], n)
            start = end
        self.typed: dict[tuple[int, str], Any] = {}  # the same, read as other dtypes
        self.code = code
        self.functions: dict[int, Callable[[Mask], None]] = {}  # of the blocks of code that were run
        #: What these name: registers and constants; while a batch runs, what is its own, too.
        self.names: dict[str, Any] = {"__builtins__": builtins, **_FUNCTIONS, **code.constants, "n": n}
        self.names.update({f"round_{mode}": exact.rounding_mode(mode) for mode in ("rn", "rm", "rp", "rz")})
        self.names.update(fused_f32=exact.fused("f32"), fused_f64=exact.fused("f64"))

    def function(self, at: int) -> Callable[[Mask], None]:
        """A block of code, to which the registers that it names are bound when it is first run."""
        if at not in self.functions:
            block, names = self.code.blocks[at], self.names
            names.update({name: self._view(self.code.views[name]) for name in block.views if name not in names})
            self.functions[at] = FunctionType(block.program, names)
        return self.functions[at]

    def _view(self, view: View) -> Any:
        key = view.size, view.dtype
        if key not in self.typed:
            self.typed[key] = self.banks[view.size].view(view.dtype)
        row = self.typed[key][view.row]
        return row if len(row) == self.n else row[view.part :: len(row) // self.n]


def registers_of(code: Code, n: int) -> Registers:
    """Those of the kernel's last launch, which mostly had as many threads."""
    found = code.registers
    if found is None or found.n != n or found.memory is not _register_memory:
        found = code.registers = Registers(code, n)
    return found


class Batch:
    """Blocks that run at once. A *slot* is the place of a block among them."""

    def __init__(self, launch: Launch, code: Code, memory: Memory, log: Log, blocks: Any):
        self.launch, self.code, self.memory, self.log = launch, code, memory, log
        kernel, tpb = launch.kernel, launch.threads
        self.kernel, self.tpb, self.slots = kernel, tpb, len(blocks)
        self.n = n = self.slots * tpb
        in_block = np.arange(tpb)
        self.lin = np.tile(in_block, self.slots)
        self.slot = np.repeat(np.arange(self.slots), tpb)
        self.block = np.repeat(blocks, tpb)
        self.number = self.block * BLOCK + self.lin  # in the launch
        self.lane = self.lin % WARP
        self.warps = -(-tpb // WARP)  # of a block
        self.warp = self.slot * self.warps + self.lin // WARP
        self.padded = self.warp * WARP + self.lane  # place of a thread where every warp has 32 lanes
        self.whole_warps = tpb % WARP == 0
        self.firsts = np.flatnonzero(self.lane == 0)  # the first thread of every warp
        self.everyone = np.arange(n)
        self.epoch = np.zeros(n, np.int32)  # barriers passed
        self.warp_epoch = np.zeros(n, np.int32)
        self.parameters = np.frombuffer(launch.parameters.ljust(len(launch.parameters) + 16, b"\xff"), np.uint8)

        self.dynamic_start = -(-kernel.shared_bytes // 16) * 16
        self.shared_bytes = self.dynamic_start + launch.dynamic_shared if launch.dynamic_shared else kernel.shared_bytes
        self.shared = Private(self.shared_bytes, self.slots)
        self.local = Private(kernel.local_bytes, n)
        self.registers = registers_of(code, n)
        self.namespace = self.registers.names
        self.counted: tuple[Mask, int] = True, 0  # the last threads whose warps were counted
        self.listed: tuple[Mask, Any] = True, None  # the last that were listed

    # --- names that translated code uses -----------------------------------------------------------------------------

    def _own_names(self) -> dict[str, Any]:
        """Those that are not of every batch of the kernel."""
        code, n = self.code, self.n
        names: dict[str, Any] = {}
        for method in ("load", "store", "atomic", "meet", "warp_barrier", "shuffle", "vote", "trap"):
            names[method] = getattr(self, method)
        names.update(match_lanes=self.match_lanes, reduce_lanes=self.reduce_lanes)
        names.update(active_lanes=self.active_lanes, dynamic_start=self.dynamic_start, variable=self._variables())
        addresses = {size: bank.ctypes.data for size, bank in self.registers.banks.items()}
        self._kept = []
        for name, target in code.addresses.items():
            if target in code.row_of:
                size, row = code.row_of[target]
                names[name] = addresses[size] + row * n * size
            else:
                value = np.array([code.constants[target]])
                self._kept.append(value)
                names[name] = value.ctypes.data
        for name, (offset, dtype) in code.scalars.items():
            names[name] = self.parameters[offset : offset + np.dtype(dtype).itemsize].view(dtype)[0]
        for name in code.specials:
            names[name] = self._special(name)
        return names

    def _special(self, name: str) -> Any:
        register, _, axis = name.partition("_")
        grid, block = self.launch.grid, self.launch.block
        if axis in ("x", "y", "z"):
            a = "xyz".index(axis)
            if register == "ntid":
                return np.uint32(block[a])
            if register == "nctaid":
                return np.uint32(grid[a])
            sizes, index = (block, self.lin) if register == "tid" else (grid, self.block)
            return (index // int(np.prod(sizes[:a])) % sizes[a]).astype(np.uint32)
        if name == "laneid":
            return self.lane.astype(np.uint32)
        if name == "warpid":
            return (self.lin // WARP).astype(np.uint32)
        lanes = np.uint64(1) << self.lane.astype(np.uint64)
        masks = {"eq": lanes, "lt": lanes - 1, "le": 2 * lanes - 1, "gt": ~(2 * lanes - 1), "ge": ~(lanes - 1)}
        if register == "lanemask":
            return masks[axis].astype(np.uint32)
        raise Unsupported(f"{self.kernel.name}: the special register %{name}")

    def _variables(self) -> dict[str, int]:
        addresses = {}
        for name, contents in self.kernel.constants.items():
            address = addresses[name] = self.memory.allocate(len(contents))
            self.memory.view(address, len(contents))[:] = np.frombuffer(contents, np.uint8)
            self.memory.written(address, len(contents))
        return addresses

    # --- control -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        own = self._own_names()
        self.namespace.update(own)
        try:
            with np.errstate(all="ignore"):
                self._run()
        finally:
            for name in own:
                del self.namespace[name]

    def _run(self) -> None:
        blocks, labels = self.kernel.blocks, self.kernel.labels
        pending: dict[int, Mask] = {0: True}
        waiting: dict[int, Mask] = {}  # at a barrier: block of code that comes after it → threads
        steps = 0
        held: dict[int, Mask] = {}  # at a warp operation that some of its lanes have not reached
        while pending or waiting or held:
            if not pending:
                if not self._release(waiting, pending):
                    self._deadlock(waiting, held)
                continue
            steps += 1
            if steps > MOST_STEPS:
                raise KernelError(f"{self.kernel.name} does not end")
            at = min(pending)
            m = pending.pop(at)
            if at in held:
                m = union(m, held.pop(at))
            if at == len(blocks):
                continue  # past the end
            block, function = blocks[at], self.registers.function(at)
            if block and block[0].is_collective and not (m is True and self.whole_warps):
                m, rest = self._ready(block[0], m)
                if rest is not None:
                    held[at] = rest
                if m is None:
                    continue
            self.launch.instructions += len(block) * self._warps_of(m)
            try:
                function(m)
            except KernelError as error:
                raise self._located(error, block) from None
            last = block[-1]
            if last.name in ("ret", "exit"):
                self._branch(last, m, None, at + 1, pending)
            elif last.name == "bra":
                self._branch(last, m, labels[last.operands[0]], at + 1, pending)
            elif last.name == "brx":
                self._switch(last, m, pending)
            elif last.is_barrier:
                if last.predicate:
                    raise Unsupported(f"{self.kernel.name}: {last.text}")
                waiting[at + 1] = union(waiting.get(at + 1), m)
            else:
                go(pending, at + 1, m)
        self._check_shared()

    def _warps_of(self, m: Mask) -> int:
        """How many warps have a thread among these, which mostly are those of the block before."""
        if m is True:
            return self.slots * self.warps
        if m is not self.counted[0]:
            self.counted = m, int(count_nonzero(np.logical_or.reduceat(m, self.firsts)))
        return self.counted[1]

    def _predicate(self, instruction: Instruction) -> Any:
        value = self.namespace[self._view_of(instruction.predicate or "")]
        return ~value if instruction.negated else value.copy()  # the register changes, the mask must not

    def _view_of(self, register: str, dtype: str = "b") -> str:
        size, row = self.code.row_of[register]
        return f"r{size}_{row}_{dtype}"

    def _branch(self, i: Instruction, m: Mask, to: int | None, otherwise: int, pending: dict[int, Mask]) -> None:
        if i.predicate is None:
            if to is not None:
                go(pending, to, m)
            return
        taken = self._predicate(i)
        stay = ~taken
        if m is not True:
            taken, stay = taken & m, stay & m
        if not count_nonzero(stay):
            taken, stay = m, None
        elif not count_nonzero(taken):
            taken, stay = None, m
        if taken is not None and to is not None:
            go(pending, to, taken)
        if stay is not None:
            go(pending, otherwise, stay)

    def _switch(self, i: Instruction, m: Mask, pending: dict[int, Mask]) -> None:
        index = self.namespace[self._view_of(i.operands[0], "u4")]
        for number in np.unique(index if m is True else index[m]):
            target = self.kernel.labels[self.kernel.tables[i.operands[1]][number]]
            go(pending, target, both(m, index == number))

    def _release(self, waiting: dict[int, Mask], pending: dict[int, Mask]) -> bool:
        """Let those blocks pass a barrier whose threads are all there."""
        moved = False
        for after, m in list(waiting.items()):
            arrived = (np.full(self.n, m) if m is True else m).reshape(self.slots, self.tpb)
            complete = np.repeat(arrived.all(1), self.tpb)
            if not complete.any():
                continue
            moved = True
            rest = ~complete & arrived.reshape(-1)
            del waiting[after]
            if rest.any():
                waiting[after] = rest
            self.epoch = self.epoch + complete
            go(pending, after, True if complete.all() else complete)
            if complete.all():
                self._check_shared()
        return moved

    def _deadlock(self, waiting: dict[int, Mask], held: dict[int, Mask]) -> None:
        for at, m in held.items():
            thread = int(np.flatnonzero(m)[0])
            instruction = self.kernel.blocks[at][0]
            raise BadMask(
                f"{self.kernel.name}: {instruction.text}: {self._thread(thread)} waits for lanes that its mask names "
                f"and that exited, are absent, or wait elsewhere"
            )
        places = {after: self.kernel.blocks[after - 1][-1].text for after in waiting}
        counts = {after: self.n if m is True else int(m.sum()) for after, m in waiting.items()}
        found = ", ".join(f"{counts[after]} threads at the barrier before block {after}" for after in places)
        raise BarrierError(f"{self.kernel.name}: {found}, and the others of their blocks never come")

    def _located(self, error: KernelError, block: list[Instruction]) -> KernelError:
        if str(error).startswith(self.kernel.name):
            return error
        return type(error)(f"{self.kernel.name}: {error}")

    def _thread(self, thread: int) -> str:
        b, t = int(self.block[thread]), int(self.lin[thread])
        grid, block = self.launch.grid, self.launch.block
        return (
            f"block {(b % grid[0], b // grid[0] % grid[1], b // (grid[0] * grid[1]))} "
            f"thread {(t % block[0], t // block[0] % block[1], t // (block[0] * block[1]))}"
        )

    def _check_shared(self) -> None:
        try:
            self.log.check_shared()
        except Race as error:
            raise Race(f"{self.kernel.name}: {error}") from None

    def trap(self, m: Mask) -> None:
        raise KernelError(f"{self._thread(int(self._threads(m)[0]))} executed trap")

    # --- memory ------------------------------------------------------------------------------------------------------

    def _threads(self, m: Mask) -> Any:
        if m is True:
            return self.everyone
        if m.base is not None:  # a register, which changes
            return m.nonzero()[0]
        if m is not self.listed[0]:  # else as for the access before
            self.listed = m, m.nonzero()[0]
        return self.listed[1]

    def _where(self, m: Mask, base: Any, offset: int, size: int, site: int) -> tuple[Any, Any]:
        """Threads, and their addresses."""
        threads = self._threads(m)
        if isinstance(base, np.ndarray):
            address = (base if m is True else base[threads]).astype(np.int64)
            address += offset
            if base.dtype.itemsize == 4:  # of shared memory: sums of 32 bits
                address &= 0xFFFFFFFF
        else:
            address = np.full(len(threads), int(base) + offset, np.int64)
        if size > 1 and count_nonzero(wrong := address & (size - 1)):
            first = int(np.flatnonzero(wrong)[0])
            raise Misaligned(f"{self._at(site, threads[first])}: {size} bytes at {int(address[first]):#x}")
        return threads, address

    def _at(self, site: int, thread: int) -> str:
        return f"{self.code.sites[site].text}: {self._thread(int(thread))}"

    def _spaces(self, space: str, threads: Any, address: Any) -> list[tuple[str, Any, Any, Any]]:
        """(space, which of the accesses, threads, offsets in it): a generic address may be in any space."""
        if space != "generic":
            return [(space, slice(None), threads, address)]
        window = address >> 60
        parts = []
        numbers = window[:1] if not count_nonzero(window != window[:1]) else np.unique(window)
        for number in numbers:
            name = _WINDOW_NAMES.get(int(number), "global")
            which = slice(None) if len(numbers) == 1 else np.flatnonzero(window == number)
            parts.append((name, which, threads[which], address[which] - WINDOWS.get(name, 0)))
        return parts

    def _resolve(self, space: str, threads: Any, address: Any, size: int, what: str, site: int) -> tuple[Any, Any]:
        """Check accesses and note them: the memory that they go to, and offsets in it."""
        if len(address) == 0:
            return np.zeros(16, np.uint8), address
        try:
            if space in ("global", "const"):
                offset = address - self.memory.base
                self.memory.check(offset, size, load=what == "load")
                self.log.add_global(self, what, offset, size, threads, site)
                target = self.memory.bytes
            elif space == "shared":
                slot = self.slot if threads is self.everyone else self.slot[threads]
                offset = self.shared.check(slot, address, size, load=what == "load")
                self.log.add_shared(self, what, offset, size, threads, site)
                target = self.shared.bytes
            elif space == "local":
                offset = self.local.check(threads, address, size, load=what == "load")
                target = self.local.bytes
            else:
                if (address < 0).any() or (address + size > len(self.parameters) - 16).any() or what != "load":
                    raise OutOfBounds(f"parameters have {len(self.parameters) - 16} bytes")
                return self.parameters, address
        except (OutOfBounds, Uninitialised) as error:
            raise type(error)(f"{self.code.sites[site].text}: {self._culprit(error, threads)}{error}") from None
        except KernelError as error:
            raise type(error)(f"{self.code.sites[site].text}: {error}") from None
        if self.launch.traffic is not None and space != "local":
            self.launch.traffic.add(self, space, what, address, size, threads)
        return target, offset

    def _culprit(self, error: KernelError, threads: Any) -> str:
        which = getattr(error, "which", None)
        return "" if which is None else f"{self._thread(int(threads[which]))}: "

    def load(self, m: Mask, space: str, base: Any, offset: int, dtype: str, outs: tuple[Any, ...], site: int) -> None:
        item = int(dtype[1:])
        size = item * len(outs)
        threads, address = self._where(m, base, offset, size, site)
        for part, _, some, places in self._spaces(space, threads, address):
            target, at = self._resolve(part, some, places, size, "load", site)
            typed, index = target[: len(target) // item * item].view(dtype), at >> item.bit_length() - 1
            for number, out in enumerate(outs):
                if out is None:
                    continue
                value = typed[index + number] if number else typed[index]
                if m is True and len(some) == self.n:
                    out[...] = value
                else:
                    out[some] = value

    def store(
        self, m: Mask, space: str, base: Any, offset: int, dtype: str, values: tuple[Any, ...], site: int
    ) -> None:
        item = int(dtype[1:])
        size = item * len(values)
        threads, address = self._where(m, base, offset, size, site)
        for part, _, some, places in self._spaces(space, threads, address):
            target, at = self._resolve(part, some, places, size, "store", site)
            typed, index = target[: len(target) // item * item].view(dtype), at >> item.bit_length() - 1
            for number, value in enumerate(values):
                given = value[some] if isinstance(value, np.ndarray) and value.ndim else value
                typed[index + number] = given

    def atomic(
        self, m: Mask, space: str, base: Any, offset: int, how: str, dtype: str, out: Any, values: Any, site: int
    ) -> None:
        item = int(dtype[1:])
        threads, address = self._where(m, base, offset, item, site)
        for part, _, some, places in self._spaces(space, threads, address):
            target, at = self._resolve(part, some, places, item, "atomic", site)
            typed, index = target.view(dtype), at // item
            given = [np.broadcast_to(v, self.n)[some] for v in values]
            order = np.random.default_rng(self.launch.seed).permutation(len(some))
            if how == "add" and typed.dtype.kind != "f":
                seen = _add_in_turn(typed, index[order], given[0][order])
                if out is not None:
                    out[some[order]] = seen
                continue
            for i in order:  # one after the other, in any order
                old = typed[index[i]]
                typed[index[i]] = _ATOMIC[how](old, *(v[i] for v in given))
                if out is not None:
                    out[some[i]] = old

    # --- lanes of a warp ---------------------------------------------------------------------------------------------

    def _ready(self, instruction: Instruction, m: Mask) -> tuple[Mask | None, Any]:
        """The threads that may execute a warp operation now, and those that wait."""
        arrived = np.full(self.n, True) if m is True else m
        if instruction.name == "activemask":
            return m, None
        mask = instruction.operands[-1]
        named = np.broadcast_to(self._mask_value(mask), self.n)
        bits = self._ballot(arrived)
        ready = arrived & (bits & named == named)
        waits = arrived & ~ready
        executing = None if not ready.any() else True if ready.all() else ready
        return executing, waits if waits.any() else None

    def _mask_value(self, operand: str) -> Any:
        if operand in self.code.row_of:
            return self.namespace[self._view_of(operand, "u4")]
        return np.uint32(int(operand, 0) & 0xFFFFFFFF)

    def _ballot(self, votes: Any) -> Any:
        """Of each thread's warp the lanes where `votes` holds."""
        lanes = np.zeros(self.slots * self.warps * WARP, bool)
        lanes[self.padded] = votes
        return np.packbits(lanes, bitorder="little").view(np.uint32)[self.warp]

    def meet(self, m: Mask, mask: Any) -> None:
        """Check the mask of a warp operation: all lanes that it names must execute it, the thread's own among them."""
        if m is True and self.whole_warps and np.ndim(mask) == 0 and mask == 0xFFFFFFFF:
            return
        threads = self._threads(m)
        here = self._ballot(np.full(self.n, True) if m is True else m)[threads]
        named = np.broadcast_to(mask, self.n)[threads]
        wrong = (named >> self.lane[threads].astype(np.uint32)) & 1 == 0
        if wrong.any():
            raise BadMask(f"{self._thread(int(threads[wrong][0]))} is not in its own mask")
        if (here & named != named).any():
            first = int(np.flatnonzero(here & named != named)[0])
            raise BadMask(
                f"{self._thread(int(threads[first]))}: mask {int(named[first]):#x}, of which lanes "
                f"{int(here[first]):#x} are there"
            )

    def warp_barrier(self, m: Mask) -> None:
        self.warp_epoch = self.warp_epoch + (1 if m is True else m)

    def shuffle(self, m: Mask, mode: str, value: Any, b: Any, c: Any, mask: Any) -> tuple[Any, Any]:
        lane = self.lane
        distance, clamp = (np.broadcast_to(v, self.n).astype(np.int64) for v in (b, c))
        distance, segment, clamp = distance & 31, clamp >> 8 & 31, clamp & 31
        low = lane & segment
        high = low | (clamp & ~segment)
        source = {
            "up": lane - distance,
            "down": lane + distance,
            "bfly": lane ^ distance,
            "idx": low | (distance & ~segment),
        }[mode]
        inside = source >= high if mode == "up" else source <= high
        source = np.where(inside, source, lane)
        named = np.broadcast_to(mask, self.n)
        threads = self._threads(m)
        outside = (named[threads] >> source[threads].astype(np.uint32)) & 1 == 0
        if outside.any():
            raise BadMask(f"{self._thread(int(threads[outside][0]))} shuffles from a lane outside of its mask")
        from_ = np.clip(self.everyone - lane + source, 0, self.n - 1)
        return np.broadcast_to(value, self.n)[from_], inside

    def vote(self, m: Mask, how: str, predicate: Any, mask: Any) -> Any:
        votes = np.broadcast_to(predicate, self.n) & (True if m is True else m)
        ballot = self._ballot(votes) & mask
        if how == "ballot":
            return ballot
        everyone, no_one = ballot == mask, ballot == 0
        return {"any": ~no_one, "all": everyone, "uni": everyone | no_one}[how]

    def active_lanes(self, m: Mask) -> Any:
        return self._ballot(np.full(self.n, True) if m is True else m)

    def match_lanes(self, value: Any, mask: Any) -> Any:
        """Of each thread's warp the lanes in its mask that have the thread's own value."""
        values = np.zeros(self.slots * self.warps * WARP, value.dtype)
        values[self.padded] = value
        values = values.reshape(-1, WARP)
        same = np.packbits(values[:, :, None] == values[:, None, :], axis=-1, bitorder="little").view(np.uint32)
        return same.reshape(-1)[self.padded] & mask

    def reduce_lanes(self, m: Mask, how: str, value: Any, mask: Any) -> Any:
        threads = self._threads(m)
        value, mask = np.broadcast_to(value, self.n), np.broadcast_to(mask, self.n)
        result = value.copy()
        groups, inverse = np.unique(np.stack([self.warp[threads], mask[threads]]), axis=1, return_inverse=True)
        for group in range(groups.shape[1]):
            members = threads[inverse.reshape(-1) == group]
            function = {"add": np.add, "min": np.minimum, "max": np.maximum}.get(how) or getattr(np, f"bitwise_{how}")
            result[members] = function.reduce(value[members], dtype=value.dtype)
        return result


def _add_in_turn(memory: Any, index: Any, values: Any) -> Any:
    """Add integers to elements of memory, one after the other: what was there when the turn of each came."""
    order = np.argsort(index, kind="stable")
    at, given = index[order], values[order].astype(memory.dtype)
    sums = np.cumsum(given, dtype=memory.dtype)
    first = np.flatnonzero(np.diff(at, prepend=-1))
    number = np.cumsum(np.diff(at, prepend=-1) != 0) - 1
    earlier = sums - given
    seen = np.empty_like(given)
    seen[order] = memory[at] + earlier - earlier[first][number]
    np.add.at(memory, at, given)
    return seen


class Private:
    """Shared or local memory: as many equal pieces as there are blocks or threads."""

    def __init__(self, size: int, pieces: int):
        self.size, self.pitch = size, -(-size // 16) * 16
        self.bytes = np.full(self.pitch * pieces, 0xFF, np.uint8)
        self.state = np.zeros(self.pitch * pieces, np.uint8)
        self.states = {width: self.state.view(f"u{width}") for width in (1, 2, 4, 8)}

    def check(self, piece: Any, offset: Any, size: int, *, load: bool) -> Any:
        """Offsets in `bytes`, where these aligned accesses are allowed."""
        outside = offset.view(np.uint64) > max(self.size - size, 0)  # as negative ones are, too
        if count_nonzero(outside) or size > self.size:
            outside |= size > self.size
            error = OutOfBounds(f"byte {int(offset[outside][0])} of {self.size}")
            error.which = int(np.flatnonzero(outside)[0])  # type: ignore[attr-defined]
            raise error
        at = offset + piece * self.pitch
        whole = min(size, 8)
        written = (1 << 8 * whole) // 255  # 0x01 in every byte
        for part in range(0, size, whole):
            index = (at + part) >> whole.bit_length() - 1
            if load:
                wrong = self.states[whole][index] != written
                if count_nonzero(wrong):
                    error = Uninitialised(f"byte {int(offset[wrong][0])} of {self.size}")  # type: ignore[assignment]
                    error.which = int(np.flatnonzero(wrong)[0])  # type: ignore[attr-defined]
                    raise error
            else:
                self.states[whole][index] = written
        return at


def both(m: Mask, condition: Any) -> Any:
    return condition if m is True else m & condition


def union(a: Mask | None, b: Mask) -> Mask:
    if a is None:
        return b
    if a is True or b is True:
        return True
    together = a | b
    return True if together.all() else together


def go(pending: dict[int, Mask], to: int, m: Mask) -> None:
    pending[to] = union(pending.get(to), m)


_ATOMIC = {
    "add": lambda old, v: old + v,
    "min": lambda old, v: min(old, v),
    "max": lambda old, v: max(old, v),
    "and": lambda old, v: old & v,
    "or": lambda old, v: old | v,
    "xor": lambda old, v: old ^ v,
    "exch": lambda old, v: v,
    "cas": lambda old, compare, v: v if old == compare else old,
    "inc": lambda old, v: 0 if old >= v else old + 1,
    "dec": lambda old, v: v if old == 0 or old > v else old - 1,
}

_FUNCTIONS = {
    name: getattr(np, name)
    for name in (
        *("add", "subtract", "multiply", "true_divide", "negative", "absolute", "invert", "sqrt", "reciprocal"),
        *("minimum", "maximum", "fmin", "fmax", "copysign", "bitwise_and", "bitwise_or", "bitwise_xor"),
        *("left_shift", "right_shift", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        *("where", "copyto"),
    )
} | {
    name: getattr(arithmetic, name)
    for name in (
        *("multiply_high", "divide", "remainder", "shift_left", "shift_right", "funnel_shift", "extract_bits"),
        *("insert_bits", "permute_bytes", "logic3", "count_ones", "count_leading_zeros", "reverse_bits"),
        *("find_top_bit", "approximate_divide", "is_class"),
    )
}
_FUNCTIONS |= {"both": both, "bfloat": lambda bits: np.asarray(bits).view(arithmetic.BF16)}
_FUNCTIONS |= {f"{kind}_": np.dtype(kind).type for kind in ("u1", "u2", "u4", "u8", "i2", "i4", "i8", "f4", "f8")}
