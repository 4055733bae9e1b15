"""Basic blocks to Python: each instruction becomes a line that does it to the vector of all threads.

A block becomes `def block_7(m):`, where `m` says which threads execute it: True for all, or a vector of bool. Registers
are rows of arrays, and appear as views of one of them: `r3_f4` is register number 3 read as float32. Which array a name
is, `machine` decides for each launch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np

from . import arithmetic
from .errors import Unsupported
from .parse import SIZE, Instruction, Kernel

#: Where other spaces begin in the generic one; no host address reaches there.
WINDOWS = {"shared": 1 << 60, "local": 2 << 60, "param": 3 << 60}


@dataclass(frozen=True)
class View:
    """A row of the registers of this size, read as this dtype; where that is narrower, its `part`-th element."""

    size: int  # bytes
    row: int
    dtype: str
    part: int = 0


@dataclass
class Block:
    """A translated block: `def block_7(m):`, compiled when it is first run, as many blocks of a kernel never are."""

    number: int
    source: str
    views: set[str]  # those of `Code.views` that it names

    @cached_property
    def program(self) -> CodeType:
        """The code of the function."""
        module = compile(self.source, f"<block {self.number}>", "exec")
        return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


@dataclass
class Code:
    """A translated kernel."""

    kernel: Kernel
    blocks: list[Block] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)  # name → what it must be bound to
    addresses: dict[str, str] = field(default_factory=dict)  # name → register or constant whose address it is
    constants: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, tuple[int, str]] = field(default_factory=dict)  # name → offset of a parameter, dtype
    specials: set[str] = field(default_factory=set)
    rows: dict[int, int] = field(default_factory=lambda: dict.fromkeys((1, 2, 4, 8), 0))  # bytes → registers
    row_of: dict[str, tuple[int, int]] = field(default_factory=dict)  # register → bytes and row
    sites: list[Instruction] = field(default_factory=list)  # of accesses
    registers: Any = None  # machine's, of the last launch


_COMPARE = {
    "eq": "equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "neu": "not_equal",
    "lo": "less", "ls": "less_equal", "hi": "greater", "hs": "greater_equal",
}  # fmt: skip
_NEGATED = {"ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
#: f16 arithmetic goes through float32, which rounds twice and yet correctly: 24 ≥ 2·11 + 2.
_BINARY = {
    "add": "add", "sub": "subtract", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
}  # fmt: skip
_IGNORED = {"membar", "fence", "prefetch", "prefetchu", "nanosleep", "griddepcontrol", "discard"}


class Translator:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.code = Code(kernel)
        self.lines: list[str] = []
        self.named: set[str] = set()  # views, in this block
        self.constant_names: dict[Any, str] = {}
        self.view_names: dict[tuple[str, str, int], str] = {}
        self.known = self._parameter_addresses()

    def translate(self) -> Code:
        for index, block in enumerate(self.kernel.blocks):
            self.lines, self.named = [f"def block_{index}(m):", "    pass"], set()
            for instruction in block:
                try:
                    self._instruction(instruction)
                except (Unsupported, KeyError, ValueError, IndexError) as error:
                    raise Unsupported(f"{self.kernel.name}: {instruction.text}: {error!r}") from error
            self.code.blocks.append(Block(index, "\n".join(self.lines) + "\n", self.named))
        return self.code

    def _parameter_addresses(self) -> dict[str, int]:
        """Registers that always hold the address of a parameter, plus something."""
        instructions = [i for block in self.kernel.blocks for i in block]
        written = Counter(operand for i in instructions if i.name not in ("st", "red") for operand in i.operands[:1])
        known: dict[str, int] = {}
        for i in instructions:
            if i.predicate or not i.operands or written[i.operands[0]] != 1:
                continue
            if i.name == "mov" and i.operands[1] in self.kernel.parameters:
                known[i.operands[0]] = self.kernel.parameters[i.operands[1]][0]
            elif i.name == "add" and i.operands[1] in known and re.fullmatch(r"-?\d+", i.operands[2]):
                known[i.operands[0]] = known[i.operands[1]] + int(i.operands[2])
        return known

    # --- names -------------------------------------------------------------------------------------------------------

    def is_register(self, operand: str) -> bool:
        return operand in self.code.row_of or self.kernel.register_type(operand) is not None

    def view(self, register: str, dtype: str, part: int = 0) -> str:
        key = register, dtype, part
        if key not in self.view_names:
            self.view_names[key] = self._new_view(*key)
        self.named.add(self.view_names[key])
        return self.view_names[key]

    def _new_view(self, register: str, dtype: str, part: int) -> str:
        code = self.code
        if register not in code.row_of:
            kind = self.kernel.register_type(register)
            size = SIZE[kind]  # type: ignore[index]
            code.row_of[register] = size, code.rows[size]
            code.rows[size] += 1
        size, row = code.row_of[register]
        if np.dtype(dtype).itemsize > size:
            raise Unsupported(f"{register} is narrower than {dtype}")
        name = f"r{size}_{row}_{dtype.replace('?', 'b')}" + (f"_{part}" if part else "")
        code.views[name] = View(size, row, dtype, part)
        return name

    def constant(self, value: Any) -> str:
        key = (value.dtype, value.tobytes()) if isinstance(value, np.generic) else id(value)
        if key not in self.constant_names:
            name = self.constant_names[key] = f"k{len(self.constant_names)}"
            self.code.constants[name] = value
        return self.constant_names[key]

    def read(self, operand: str, kind: str) -> str:
        """An operand's value as a PTX type."""
        dtype = arithmetic.dtype_of(kind)
        text = "u2" if kind == "bf16" else dtype.str[1:] if kind != "pred" else "?"
        if operand[0] == "!":
            return f"(~{self.read(operand[1:], kind)})"
        if self.is_register(operand):
            return self.view(operand, text)
        if operand[0] == "%":
            name = operand[1:].replace(".", "_")
            self.code.specials.add(name)
            return f"{name}.astype('{text}')" if dtype != np.uint32 and dtype != np.int32 else name
        if operand[:2] in ("0f", "0F", "0d", "0D"):
            return self.constant(np.frombuffer(bytes.fromhex(operand[2:])[::-1], dtype)[0])
        if (place := self.place(operand)) is not None:
            return self.constant(dtype.type(place)) if isinstance(place, int) else f"{text}_({place})"
        number = int(operand.rstrip("U"), 0)
        if kind == "pred":
            return str(bool(number))
        if dtype.kind == "f":
            return self.constant(dtype.type(number))
        bits = (number & (2 ** (8 * dtype.itemsize) - 1)).to_bytes(dtype.itemsize, "little")
        return self.constant(np.frombuffer(bits, dtype)[0])

    def place(self, symbol: str) -> int | str | None:
        """The address of a variable in its own space; an expression where the launch decides."""
        kernel = self.kernel
        if symbol in kernel.shared:
            return kernel.shared[symbol]
        if symbol in kernel.dynamic:
            return "dynamic_start"
        if symbol in kernel.local:
            return kernel.local[symbol]
        if symbol in kernel.parameters:
            return kernel.parameters[symbol][0]
        if symbol in kernel.constants:
            return f"variable[{symbol!r}]"
        return None

    def write(self, operand: str, kind: str, value: str, m: str) -> None:
        """Store an expression of that type; in a wider register it is extended."""
        if operand == "_":
            return
        dtype = arithmetic.dtype_of(kind)
        size = SIZE[self.kernel.register_type(operand) or ""]
        if kind in ("pred", "bf16") or size == dtype.itemsize:
            text = "?" if kind == "pred" else "u2" if kind == "bf16" else dtype.str[1:]
        else:
            text = f"{'i' if dtype.kind == 'i' else 'u'}{size}"
            if dtype.kind == "f":
                raise Unsupported(f"{kind} into a register of {size} bytes")
        self.line(f"copyto({self.view(operand, text)}, {value}, where={m}, casting='unsafe')")

    def ufunc(self, name: str, operand: str, kind: str, arguments: list[str], m: str) -> None:
        """One function of NumPy straight into a register."""
        dtype = arithmetic.dtype_of(kind)
        if operand != "_" and SIZE[self.kernel.register_type(operand) or ""] == dtype.itemsize:
            out = self.view(operand, "?" if kind == "pred" else dtype.str[1:])
            self.line(f"{name}({', '.join(arguments)}, out={out}, where={m})")
        else:
            self.write(operand, kind, f"{name}({', '.join(arguments)})", m)

    def line(self, text: str) -> None:
        self.lines.append("    " + text)

    # --- instructions ------------------------------------------------------------------------------------------------

    def _instruction(self, i: Instruction) -> None:
        if i.name in ("bra", "brx", "ret", "exit"):
            if i.predicate:
                self.read(i.predicate, "pred")
            if i.name == "brx":
                self.read(i.operands[0], "u32")
            return
        if i.name in _IGNORED:
            return
        m = "m"
        if i.predicate:
            m = "mp"
            self.line(f"mp = both(m, {'~' if i.negated else ''}{self.read(i.predicate, 'pred')})")
        handler: Callable[[Instruction, str], None] | None = getattr(self, f"_{i.name}", None)
        if handler is None:
            raise Unsupported(f"the instruction {i.name}")
        handler(i, m)

    def _kind(self, i: Instruction) -> str:
        """The instruction's type: its last modifier."""
        if i.opcode[-1] not in SIZE:
            raise Unsupported("no type")
        return i.opcode[-1]

    def _strict(self, i: Instruction, *known: str) -> None:
        """Refuse modifiers that would change the result."""
        if strange := set(i.opcode[1:-1]) - {"rn", "lo", "sync", "aligned", "uni", *known}:
            raise Unsupported(f"modifier {', '.join(sorted(strange))}")

    def _arithmetic(self, i: Instruction, m: str) -> None:
        self._strict(i)
        kind = self._kind(i)
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        self.ufunc(_BINARY[i.name], i.operands[0], kind, [a, b], m)

    _sub = _and = _or = _xor = _arithmetic

    def _add(self, i: Instruction, m: str) -> None:
        rounding = {"rm", "rp", "rz"} & set(i.opcode)
        if rounding:
            one = f"0{'f3F800000' if i.opcode[-1] == 'f32' else 'd3FF0000000000000'}"
            return self._fused(i, [i.operands[1], one, i.operands[2]], m)
        return self._arithmetic(i, m)

    def _min(self, i: Instruction, m: str) -> None:
        self._strict(i, "NaN")
        kind = self._kind(i)
        functions = {"min": ("minimum", "fmin"), "max": ("maximum", "fmax")}[i.name]
        function = functions[kind[0] == "f" and "NaN" not in i.opcode]
        self.ufunc(function, i.operands[0], kind, [self.read(o, kind) for o in i.operands[1:]], m)

    _max = _min

    def _mul(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        rounding = {"rm", "rp", "rz"} & set(i.opcode)
        if rounding:
            zero = f"0{'f80000000' if kind == 'f32' else 'd8000000000000000'}"
            return self._fused(i, [*i.operands[1:3], zero], m)
        self._strict(i, "wide", "hi")
        if "wide" in i.opcode:
            wide = f"{kind[0]}{2 * int(kind[1:])}"
            dtype = arithmetic.dtype_of(wide).str[1:]
            return self.ufunc("multiply", i.operands[0], wide, [a, b, f"dtype='{dtype}'"], m)
        if "hi" in i.opcode:
            return self.write(i.operands[0], kind, f"multiply_high({a}, {b})", m)
        return self.ufunc("multiply", i.operands[0], kind, [a, b], m)

    def _mad(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        if kind[0] == "f":
            return self._fma(i, m)
        self._strict(i, "wide", "hi")
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        if "wide" in i.opcode:
            kind = f"{kind[0]}{2 * int(kind[1:])}"
            product = f"multiply({a}, {b}, dtype='{arithmetic.dtype_of(kind).str[1:]}')"
        else:
            product = f"multiply_high({a}, {b})" if "hi" in i.opcode else f"multiply({a}, {b})"
        return self.ufunc("add", i.operands[0], kind, [product, self.read(i.operands[3], kind)], m)

    def _fma(self, i: Instruction, m: str) -> None:
        self._fused(i, list(i.operands[1:4]), m)

    def _fused(self, i: Instruction, operands: list[str], m: str) -> None:
        kind = self._kind(i)
        if kind not in ("f32", "f64"):
            raise Unsupported(f"fma of {kind}")
        self._strict(i, "rm", "rp", "rz")
        mode = next((modifier for modifier in i.opcode[1:-1] if modifier in ("rn", "rm", "rp", "rz")), "rn")
        arguments = []
        for operand in operands:
            value = self.read(operand, kind)
            if self.is_register(operand):
                arguments += [self._address(operand), "1"]
            else:
                arguments += [self._address(value), "0"]
        self.view(i.operands[0], f"f{SIZE[kind]}")
        out = self._address(i.operands[0])
        mask = f"0 if {m} is True else {m}.ctypes.data"
        self.line(f"fused_{kind}(n, {', '.join(arguments)}, {out}, {mask}, round_{mode})")

    def _address(self, name: str) -> str:
        """The name of the address of a register or a constant."""
        if self.is_register(name):
            size, row = self.code.row_of[name]
            label = f"a{size}_{row}"
        else:
            label = f"a_{name}"
        self.code.addresses[label] = name
        return label

    def _div(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        if kind[0] != "f":
            return self.write(i.operands[0], kind, f"{'divide' if i.name == 'div' else 'remainder'}({a}, {b})", m)
        self._strict(i, "approx", "full")
        if {"approx", "full"} & set(i.opcode):
            return self.write(i.operands[0], kind, f"approximate_divide({a}, {b})", m)
        return self.ufunc("true_divide", i.operands[0], kind, [a, b], m)

    _rem = _div

    def _rcp(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a = self.read(i.operands[1], kind)
        if "approx" in i.opcode:
            self._strict(i, "approx", "ftz")
            if kind != "f32":
                raise Unsupported("approximate f64")
            function = self.constant(arithmetic.approximate(i.name, "ftz" in i.opcode))
            return self.write(i.operands[0], kind, f"{function}({a})", m)
        self._strict(i)
        return self.ufunc({"rcp": "reciprocal", "sqrt": "sqrt"}[i.name], i.operands[0], kind, [a], m)

    _sqrt = _rsqrt = _ex2 = _lg2 = _sin = _cos = _tanh = _rcp

    def _unary(self, i: Instruction, m: str) -> None:
        self._strict(i)
        kind = self._kind(i)
        function = {"neg": "negative", "abs": "absolute", "not": "invert"}[i.name]
        self.ufunc(function, i.operands[0], kind, [self.read(i.operands[1], kind)], m)

    _neg = _abs = _not = _unary

    def _copysign(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        sign, magnitude = (self.read(operand, kind) for operand in i.operands[1:3])
        self.ufunc("copysign", i.operands[0], kind, [magnitude, sign], m)

    def _testp(self, i: Instruction, m: str) -> None:
        self.write(i.operands[0], "pred", f"is_class('{i.opcode[1]}', {self.read(i.operands[1], i.opcode[2])})", m)

    def _shl(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        bits = 8 * SIZE[kind]
        left = i.name == "shl"
        a = self.read(i.operands[1], kind)
        if i.operands[2].isdigit() and int(i.operands[2]) < bits:
            count = self.constant(arithmetic.dtype_of(kind).type(int(i.operands[2])))
            return self.ufunc("left_shift" if left else "right_shift", i.operands[0], kind, [a, count], m)
        count = self.read(i.operands[2], "u32")
        return self.write(i.operands[0], kind, f"{'shift_left' if left else 'shift_right'}({a}, {count})", m)

    _shr = _shl

    def _shf(self, i: Instruction, m: str) -> None:
        low, high, count = (self.read(operand, "u32") for operand in i.operands[1:4])
        options = f"left={'l' in i.opcode}, wrap={'wrap' in i.opcode}"
        self.write(i.operands[0], "u32", f"funnel_shift({low}, {high}, {count}, {options})", m)

    def _bfe(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a, position, length = self.read(i.operands[1], kind), *(self.read(o, "u32") for o in i.operands[2:4])
        self.write(i.operands[0], kind, f"extract_bits({a}, {position}, {length})", m)

    def _bfi(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        position, length = (self.read(operand, "u32") for operand in i.operands[3:5])
        self.write(i.operands[0], kind, f"insert_bits({a}, {b}, {position}, {length})", m)

    def _prmt(self, i: Instruction, m: str) -> None:
        if i.opcode != ("prmt", "b32"):
            raise Unsupported("a mode of prmt")
        arguments = ", ".join(self.read(operand, "u32") for operand in i.operands[1:4])
        self.write(i.operands[0], "u32", f"permute_bytes({arguments})", m)

    def _lop3(self, i: Instruction, m: str) -> None:
        arguments = ", ".join(self.read(operand, "u32") for operand in i.operands[1:4])
        self.write(i.operands[0], "u32", f"logic3({arguments}, {int(i.operands[4], 0)})", m)

    def _bits(self, i: Instruction, m: str) -> None:
        self._strict(i, "shiftamt")
        kind = self._kind(i)
        function = {
            "popc": "count_ones",
            "clz": "count_leading_zeros",
            "brev": "reverse_bits",
            "bfind": "find_top_bit",
        }[i.name]
        result = kind if i.name == "brev" else "u32"
        value = f"{function}({self.read(i.operands[1], kind)})"
        if "shiftamt" in i.opcode:  # how far to shift left, for the bit to be the highest
            value = f"where({value} == 0xFFFFFFFF, {value}, {8 * SIZE[kind] - 1} - {value})"
        self.write(i.operands[0], result, value, m)

    _popc = _clz = _brev = _bfind = _bits

    def _setp(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        how, combine = i.opcode[1], next((c for c in ("and", "or", "xor") if c in i.opcode[2:]), None)
        self._strict(i, how, "and", "or", "xor")
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        is_float = kind[0] == "f"
        first, _, second = i.operands[0].partition("|")
        if how in ("num", "nan"):
            value = f"(({a} == {a}) & ({b} == {b}))" if how == "num" else f"(({a} != {a}) | ({b} != {b}))"
        elif how in _NEGATED:
            value = f"(~{_COMPARE[_NEGATED[how]]}({a}, {b}))"
        elif how == "equ":
            value = f"(~(less({a}, {b}) | greater({a}, {b})))"
        elif how == "ne":
            value = f"(less({a}, {b}) | greater({a}, {b}))" if is_float else f"not_equal({a}, {b})"
        else:
            if not combine and not second:
                return self.ufunc(_COMPARE[how], first, "pred", [a, b], m)
            value = f"{_COMPARE[how]}({a}, {b})"
        operator = {"and": "&", "or": "|", "xor": "^"}.get(combine or "")
        if second:
            self.line(f"compared = {value}")
            value = "compared"
            other = f"(~compared) {operator} {self.read(i.operands[3], 'pred')}" if operator else "~compared"
            self.line(f"negation = {other}")
        if operator:
            value = f"{value} {operator} {self.read(i.operands[3], 'pred')}"
        self.write(first, "pred", value, m)
        if second:
            self.write(second, "pred", "negation", m)
        return None

    def _selp(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        self.write(i.operands[0], kind, f"where({self.read(i.operands[3], 'pred')}, {a}, {b})", m)

    def _cvt(self, i: Instruction, m: str) -> None:
        *modifiers, to, source = i.opcode[1:]
        if to in ("f16x2", "bf16x2"):
            half = to[:-2]
            function = self.constant(arithmetic.conversion(half, source, tuple(modifiers)))
            for part, operand in enumerate((i.operands[2], i.operands[1])):
                out = self.view(i.operands[0], "u2", part)
                self.line(f"copyto({out}, {function}({self.read(operand, source)}).view('u2'), where={m})")
            return None
        value = self.read(i.operands[1], source)
        if source == "bf16":
            value = f"bfloat({value})"
        function = self.constant(arithmetic.conversion(to, source, tuple(modifiers)))
        return self.write(i.operands[0], to, f"{function}({value})" + (".view('u2')" if to == "bf16" else ""), m)

    def _mov(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        to, source = i.operands
        if to[0] != "{" and source[0] != "{":
            return self.write(to, kind, self.read(source, kind), m)
        parts = [part.strip() for part in (to if to[0] == "{" else source).strip("{}").split(",")]
        narrow = f"b{8 * SIZE[kind] // len(parts)}"
        dtype = f"u{SIZE[narrow]}"
        if to[0] == "{":  # take apart; all parts are read before any is written
            for number in range(len(parts)):
                self.line(f"part{number} = {self.view(source, dtype, number)}.copy()")
            for number, part in enumerate(parts):
                self.write(part, narrow, f"part{number}", m)
        else:
            for number, part in enumerate(parts):
                self.line(f"part{number} = {self.read(part, narrow)}")
            for number in range(len(parts)):
                self.line(f"copyto({self.view(to, dtype, number)}, part{number}, where={m})")
        return None

    def _cvta(self, i: Instruction, m: str) -> None:
        space = next(s for s in ("global", "const", "shared", "local", "param") if s in i.opcode)
        offset = WINDOWS.get(space, 0)
        value = self.read(i.operands[1], "u64")
        if offset:
            value = f"{'subtract' if 'to' in i.opcode else 'add'}({value}, {self.constant(np.uint64(offset))})"
        self.write(i.operands[0], "u64", value, m)

    def _isspacep(self, i: Instruction, m: str) -> None:
        value = self.read(i.operands[1], "u64")
        numbers = {space: start >> 60 for space, start in WINDOWS.items()}
        self.write(i.operands[0], "pred", f"(({value} >> u8_(60)) == {numbers.get(i.opcode[1], 0)})", m)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _memory_operand(self, operand: str) -> tuple[str, str]:
        """Base and offset, as expressions."""
        match = re.fullmatch(r"\[\s*([^+\]]+?)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        if not match:
            raise Unsupported(f"the address {operand}")
        base, offset = match[1], match[2] or "0"
        if self.is_register(base):
            wide = SIZE[self.kernel.register_type(base) or ""] == 8
            return self.view(base, "i8" if wide else "u4"), offset
        place = self.place(base)
        return str(place if place is not None else int(base, 0)), offset

    def _vector(self, i: Instruction) -> int:
        return next((int(modifier[1:]) for modifier in i.opcode if re.fullmatch(r"v[248]", modifier)), 1)

    def _space(self, i: Instruction) -> str:
        return next((s for s in ("global", "shared", "local", "param", "const") if s in i.opcode), "generic")

    def _site(self, i: Instruction) -> int:
        self.code.sites.append(i)
        return len(self.code.sites) - 1

    def _ld(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        dtype = arithmetic.dtype_of(kind)
        registers = [register.strip() for register in i.operands[0].strip("{}").split(",")]
        match = re.fullmatch(r"\[\s*([^+\]]+?)\s*(?:\+\s*(-?\w+))?\s*\]", i.operands[1])
        space = self._space(i)
        if space == "param" and match:
            start = self.known.get(match[1], self.kernel.parameters.get(match[1], (None, 0))[0])
            if start is not None:
                for number, register in enumerate(registers):
                    offset = start + int(match[2] or "0", 0) + number * dtype.itemsize
                    name = f"p{offset}_{dtype.str[1:]}"
                    self.code.scalars[name] = offset, dtype.str[1:]
                    self.write(register, kind, name, m)
                return
        outs = []
        for register in registers:
            size = SIZE[self.kernel.register_type(register) or ""] if register != "_" else 0
            wide = dtype.str[1:] if size == dtype.itemsize else f"{'i' if dtype.kind == 'i' else 'u'}{size}"
            outs.append("None" if register == "_" else self.view(register, wide))
        base, offset = self._memory_operand(i.operands[1])
        site = self._site(i)
        self.line(f"load({m}, '{space}', {base}, {offset}, '{dtype.str[1:]}', ({', '.join(outs)},), {site})")

    _ldu = _ld

    def _st(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        dtype = arithmetic.dtype_of(kind)
        values = [self.read(register.strip(), kind) for register in i.operands[1].strip("{}").split(",")]
        base, offset = self._memory_operand(i.operands[0])
        space, site = self._space(i), self._site(i)
        self.line(f"store({m}, '{space}', {base}, {offset}, '{dtype.str[1:]}', ({', '.join(values)},), {site})")

    def _atom(self, i: Instruction, m: str) -> None:
        kind = self._kind(i)
        to, operands = ("_", i.operands) if i.name == "red" else (i.operands[0], i.operands[1:])
        how = next(h for h in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec") if h in i.opcode)
        values = [self.read(operand, kind) for operand in operands[1:]]
        base, offset = self._memory_operand(operands[0])
        dtype = arithmetic.dtype_of(kind).str[1:]
        out = "None" if to == "_" else self.view(to, dtype)
        space, site = self._space(i), self._site(i)
        self.line(
            f"atomic({m}, '{space}', {base}, {offset}, '{how}', '{dtype}', {out}, ({', '.join(values)},), {site})"
        )

    _red = _atom

    # --- lanes and threads -------------------------------------------------------------------------------------------

    def _bar(self, i: Instruction, m: str) -> None:
        if "warp" in i.opcode:
            self.line(f"meet({m}, {self.read(i.operands[0], 'u32')})")
            self.line(f"warp_barrier({m})")
        elif "red" in i.opcode:
            raise Unsupported("a barrier that votes")
        elif i.operands != ("0",):
            raise Unsupported("a barrier other than number 0 of all threads")

    _barrier = _bar

    def _shfl(self, i: Instruction, m: str) -> None:
        to, _, inside = i.operands[0].partition("|")
        value, lane, clamp, mask = (self.read(operand, "u32") for operand in i.operands[1:5])
        mode = next(mode for mode in ("up", "down", "bfly", "idx") if mode in i.opcode)
        self.line(f"meet({m}, {mask})")
        self.line(f"shuffled, in_range = shuffle({m}, '{mode}', {value}, {lane}, {clamp}, {mask})")
        self.write(to, "u32", "shuffled", m)
        if inside:
            self.write(inside, "pred", "in_range", m)

    def _vote(self, i: Instruction, m: str) -> None:
        how = next(how for how in ("ballot", "any", "all", "uni") if how in i.opcode)
        predicate, mask = self.read(i.operands[1], "pred"), self.read(i.operands[2], "u32")
        self.line(f"meet({m}, {mask})")
        self.write(i.operands[0], "u32" if how == "ballot" else "pred", f"vote({m}, '{how}', {predicate}, {mask})", m)

    def _redux(self, i: Instruction, m: str) -> None:
        how, kind = i.opcode[2], self._kind(i)
        value, mask = self.read(i.operands[1], kind), self.read(i.operands[2], "u32")
        self.line(f"meet({m}, {mask})")
        self.write(i.operands[0], kind, f"reduce_lanes({m}, '{how}', {value}, {mask})", m)

    def _match(self, i: Instruction, m: str) -> None:
        if "any" not in i.opcode:
            raise Unsupported("a mode of match")
        value, mask = self.read(i.operands[1], self._kind(i)), self.read(i.operands[2], "u32")
        self.line(f"meet({m}, {mask})")
        self.write(i.operands[0], "u32", f"match_lanes({value}, {mask})", m)

    def _activemask(self, i: Instruction, m: str) -> None:
        self.write(i.operands[0], "u32", f"active_lanes({m})", m)

    def _trap(self, i: Instruction, m: str) -> None:
        self.line(f"trap({m})")
