"""The PTX inside of a fat binary, as nvcc puts it into an object with `--no-compress`."""

from __future__ import annotations

import ctypes
import re
import struct

MAGIC, PTX = 0xBA55ED50, 1
_HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of all that follows
_ENTRY = struct.Struct("<HHIQ")  # kind, version, size of this header, size of what follows it


def ptx_of(address: int) -> dict[int, str]:
    """Architecture → PTX, of the fat binary at this address."""
    magic, _, header, total = _HEADER.unpack(ctypes.string_at(address, _HEADER.size))
    if magic != MAGIC:
        raise ValueError(f"no fat binary at {address:#x}")
    data = ctypes.string_at(address + header, total)
    found, at = {}, 0
    while at < total:
        kind, _, entry_header, payload = _ENTRY.unpack_from(data, at)
        if kind == PTX:
            text = data[at + entry_header : at + entry_header + payload].rstrip(b"\0")
            target = re.search(rb"^\.target\s+sm_(\d+)", text, re.M)
            if not target:
                raise ValueError("compressed PTX: nvcc needs --no-compress")
            found[int(target[1])] = text.decode()
        at += entry_header + payload
    return found
