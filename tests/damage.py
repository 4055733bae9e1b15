"""Files with something wrong in them: always the same for a generator's seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

#: A stand-in for what json.dumps cannot write.
_DEEP = "as deep as it goes"
#: What no reader expects where it finds it.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**32, 2**62, 2**70, 10**400, 0.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", "F32", "F64", "I32", "\ud800", "\x1b[2J\n", "9" * 5000, "x" * 10_000),
    *([], [0], [2**32, 2**32], [0] * 10_000, {}, {"": {}}, [[[[]]]]),
)


def damaged_bytes(data: bytes, rng: Any) -> bytes:
    """Bits flipped, bytes changed, a piece lost, doubled, swapped or zero, or the end cut off."""
    made = bytearray(data)
    at, end = sorted(int(n) for n in rng.integers(0, len(data), 2))
    if rng.random() < 0.5:  # near the beginning, where most is of what a reader believes
        at, end = at % 600, at % 600 + (end - at) % 60
    kind = rng.integers(7)
    if kind == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            made[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        made[at : at + 8] = rng.bytes(len(made[at : at + 8]))
    elif kind == 2:
        del made[at:end]
    elif kind == 3:
        made[at:at] = made[at:end]
    elif kind == 4:
        made[at:end] = bytes(end - at)
    elif kind == 5:
        made[at : at + 16], made[end : end + 16] = made[end : end + 16], made[at : at + 16]
    else:
        del made[at:]
    return bytes(made)


def damaged_tree(tree: Any, rng: Any, hostile: Sequence[Any] = HOSTILE) -> Any:
    """A part or two of dicts and lists replaced, lost, renamed, or swapped with another."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.integers(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        (holder, key), (other, other_key) = (places[i] for i in rng.integers(len(places), size=2))
        kind = rng.integers(6)
        if kind < 3:
            holder[key] = copy.deepcopy(hostile[rng.integers(len(hostile))])
        elif kind == 3:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            holder[f"{key} "] = holder.pop(key)
        else:  # copies, so that none is a part of itself
            holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(holder[key])
    return tree


def damaged_json(tree: Any, rng: Any) -> str:
    """The text of a damaged tree, in which something may be deeper than any stack, or there twice."""
    text = json.dumps(damaged_tree(tree, rng, (*HOSTILE, _DEEP)))
    text = text.replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000)
    if rng.random() < 0.1 and text.startswith("{"):
        text = '{"__metadata__": {}, ' + text[1:]
    return text


def _places(tree: Any) -> Any:
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield tree, key
            yield from _places(value)
