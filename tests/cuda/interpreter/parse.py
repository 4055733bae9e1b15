"""PTX text to kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .errors import Unsupported

#: Bytes of each PTX type.
SIZE = {f"{kind}{8 * n}": n for kind in "bus" for n in (1, 2, 4, 8)} | {
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "f16x2": 4, "bf16x2": 4, "pred": 1,
}  # fmt: skip
#: Instructions for which lanes of a warp meet.
COLLECTIVES = {"shfl", "vote", "match", "redux", "activemask"}


@dataclass(frozen=True)
class Instruction:
    opcode: tuple[str, ...]  # "ld.global.v4.f32" split at its dots
    operands: tuple[str, ...]
    predicate: str | None  # a register; None: always
    negated: bool
    text: str

    @cached_property
    def name(self) -> str:
        return self.opcode[0]

    @cached_property
    def is_barrier(self) -> bool:
        return self.name in ("bar", "barrier") and "warp" not in self.opcode

    @cached_property
    def is_collective(self) -> bool:
        return self.name in COLLECTIVES or (self.name == "bar" and "warp" in self.opcode)

    @property
    def ends_block(self) -> bool:
        return self.name in ("bra", "brx", "ret", "exit", "trap") or self.is_barrier or self.is_collective


@dataclass(eq=False)
class Kernel:
    """One `.entry`. `blocks[i]` falls through to `blocks[i + 1]` unless its last instruction goes elsewhere."""

    name: str
    parameters: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → offset and bytes
    parameter_bytes: int = 0
    registers: dict[str, str] = field(default_factory=dict)  # name → type
    families: dict[str, str] = field(default_factory=dict)  # "%r" → type, of %r0, %r1, …
    shared: dict[str, int] = field(default_factory=dict)  # name → offset
    shared_bytes: int = 0  # static
    dynamic: dict[str, int] = field(default_factory=dict)  # name → alignment
    local: dict[str, int] = field(default_factory=dict)
    local_bytes: int = 0
    constants: dict[str, bytes] = field(default_factory=dict)  # variables of the module, with their contents
    blocks: list[list[Instruction]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # → index of a block
    tables: dict[str, list[str]] = field(default_factory=dict)  # targets of brx.idx
    max_threads: int | None = None  # of __launch_bounds__

    def register_type(self, name: str) -> str | None:
        """The declared type of a register; None where the name is none."""
        found = self.registers.get(name)
        return self.families.get(name.rstrip("0123456789")) if found is None and name[-1:].isdigit() else found


def parse(text: str, known: dict[Any, Kernel] | None = None) -> dict[str, Kernel]:
    """All kernels of a PTX module, by name. One whose text is in `known` is not parsed again; others are put there."""
    known = {} if known is None else known
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.S)
    if not re.search(r"^\.target\s+sm_\d+", text, re.M):
        raise Unsupported("no .target: this is not PTX")
    if re.search(r"^\s*(\.visible|\.weak)?\s*\.func\b", text, re.M):
        raise Unsupported("a function that nvcc did not inline: " + _first_line(text, ".func"))
    dynamic: dict[str, int] = {}
    for match in re.finditer(r"^\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[\]", text, re.M):
        dynamic[match[2]] = int(match[1])
    constants = dict(_variables(text))
    kernels = {}
    entries = list(re.finditer(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?([^{]*)\{", text, re.S))
    for match, end in zip(entries, [*(entry.start() for entry in entries[1:]), len(text)]):
        whole = text[match.start() : end], *dynamic.items(), *constants.items()
        if whole in known:
            kernels[match[1]] = known[whole]
            continue
        kernel = kernels[match[1]] = known[whole] = Kernel(match[1], dynamic=dynamic, constants=constants)
        _parameters(kernel, match[2] or "")
        if bounds := re.search(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", match[3]):
            kernel.max_threads = int(bounds[1]) * int(bounds[2] or 1) * int(bounds[3] or 1)
        _body(kernel, text, match.end())
    return kernels


def _first_line(text: str, word: str) -> str:
    return next(line.strip() for line in text.splitlines() if word in line)


def _variables(text: str) -> Iterator[tuple[str, bytes]]:
    """Module-level `.global` and `.const` arrays of numbers."""
    pattern = r"^(?:\.visible\s+|\.weak\s+)?\.(?:global|const)\s+\.align\s+\d+\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?"
    for match in re.finditer(pattern + r"(?:\s*=\s*(\{.*?\}|[^;]*))?\s*;", text, re.M | re.S):
        kind, name, count, values = match[1], match[2], int(match[3] or 1), match[4]
        dtype = np.dtype(f"{'f' if kind[0] == 'f' else 'i' if kind[0] == 's' else 'u'}{SIZE[kind]}")
        numbers = [_number(v.strip()) for v in (values or "").strip("{} \n").split(",") if v.strip()]
        array = np.zeros(count, f"u{dtype.itemsize}")
        array[: len(numbers)] = [n & (2 ** (8 * dtype.itemsize) - 1) for n in numbers]
        yield name, array.tobytes()


def _number(text: str) -> int:
    """The bits of a literal."""
    if text[:2] in ("0f", "0F", "0d", "0D"):
        return int(text[2:], 16)
    try:
        return int(text.rstrip("U"), 0)
    except ValueError:
        raise Unsupported(f"a variable initialised with {text!r}") from None


def _parameters(kernel: Kernel, text: str) -> None:
    offset = 0
    for declaration in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(
            r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s.*?)?(?:\.align\s+(\d+)\s+)?([\w$]+)(?:\[(\d+)\])?",
            declaration,
            re.S,
        )
        if not match:
            raise Unsupported(f"{kernel.name}: parameter {declaration!r}")
        bytes_ = SIZE[match[2]] * int(match[5] or 1)
        align = int(match[1] or SIZE[match[2]])
        offset = -(-offset // align) * align
        kernel.parameters[match[4]] = offset, bytes_
        offset += bytes_
    kernel.parameter_bytes = offset


_LABEL = re.compile(r"([A-Za-z_$][\w$]*):")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.S)
_VARIABLE = re.compile(r"\.(shared|local)\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"%[\w$]+")
_BRACKET = re.compile(r"[{[(]")
_INSTRUCTION = re.compile(r"(?:@(!?)(%[\w$]+)\s+)?([a-z]\w*(?:(?:\.|::)[\w]+)*)\s*(.*)", re.S)


def _body(kernel: Kernel, text: str, at: int) -> None:
    """Everything between the braces of an entry."""
    scopes: list[dict[str, str]] = [{}]  # a register of an inner scope → its name in the kernel
    kernel.blocks.append([])
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at] == "{":
            scopes.append({})
            at += 1
        elif text[at] == "}":
            scopes.pop()
            at += 1
            if not scopes:
                break
        elif label := _LABEL.match(text, at):
            at = label.end()
            end = text.index(";", at)
            if targets := re.fullmatch(r"\s*\.branchtargets\s+(.*)", text[at:end], re.S):
                kernel.tables[label[1]] = [target.strip() for target in targets[1].split(",")]
                at = end + 1
                continue
            if kernel.blocks[-1]:
                kernel.blocks.append([])
            kernel.labels[label[1]] = len(kernel.blocks) - 1
        else:
            end = text.index(";", at)
            _statement(kernel, " ".join(text[at:end].split()), scopes)
            at = end + 1
    if not kernel.blocks[-1]:
        kernel.blocks.pop()
    for label_name, block in kernel.labels.items():
        if block >= len(kernel.blocks):
            raise Unsupported(f"{kernel.name}: nothing follows the label {label_name}")


def _statement(kernel: Kernel, statement: str, scopes: list[dict[str, str]]) -> None:
    if statement.startswith((".pragma ", ".loc ", ".file ")):
        return
    if statement[0] == "." and (match := _REGISTERS.fullmatch(statement)):
        for name in (part.strip() for part in match[2].split(",")):
            if family := re.fullmatch(r"(%[A-Za-z_]+)<\d+>", name):
                kernel.families[family[1]] = match[1]
                continue
            unique = name if len(scopes) == 1 else f"{name}@{len(kernel.registers)}"
            kernel.registers[unique] = match[1]
            scopes[-1][name] = unique
        return
    if statement[0] == "." and (match := _VARIABLE.fullmatch(statement)):
        space, align, size = match[1], int(match[2]), SIZE[match[3]] * int(match[5] or 1)
        if space == "shared":
            offset = -(-kernel.shared_bytes // align) * align
            kernel.shared[match[4]], kernel.shared_bytes = offset, offset + size
        else:
            offset = -(-kernel.local_bytes // align) * align
            kernel.local[match[4]], kernel.local_bytes = offset, offset + size
        return
    match = _INSTRUCTION.fullmatch(statement)
    if not match or statement.startswith("."):
        raise Unsupported(f"{kernel.name}: cannot parse {statement!r}")

    def unique_name(name: re.Match[str]) -> str:
        return next((scope[name[0]] for scope in reversed(scopes) if name[0] in scope), name[0])

    predicate, operands = match[2], match[4]
    if any(scopes[1:]):
        predicate = predicate and _NAME.sub(unique_name, predicate)
        operands = _NAME.sub(unique_name, operands)
    opcode = tuple(match[3].replace("::", ".").split("."))
    instruction = Instruction(opcode, tuple(_split(operands)), predicate, match[1] == "!", statement)
    # Lanes meet at the start of a block, and part at its end.
    if instruction.is_collective and kernel.blocks[-1]:
        kernel.blocks.append([])
    kernel.blocks[-1].append(instruction)
    if instruction.ends_block:
        kernel.blocks.append([])


def _split(operands: str) -> Iterator[str]:
    """At the commas that are in no bracket."""
    if not _BRACKET.search(operands):
        yield from filter(None, map(str.strip, operands.split(",")))
        return
    part, depth = "", 0
    for piece in operands.split(","):
        part = f"{part},{piece}" if depth else piece
        depth += sum(map(piece.count, "{[(")) - sum(map(piece.count, "}])"))
        if depth == 0 and (part := part.strip()):
            yield part
