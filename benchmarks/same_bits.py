"""Do two builds of the package compute the same bits? For changes of the kernels' code that must not change results.

PYTHONPATH=BEFORE python benchmarks/same_bits.py --write FILE    # keeps a hash of every result
PYTHONPATH=AFTER python benchmarks/same_bits.py --compare FILE   # names the calls whose hashes differ; exit code 1 then

Each call is of one operation, forward or VJP, with the dtypes, cases and memory layouts of tests/cases.py, under one
instruction set of this processor. All layouts run on one thread, contiguous arrays on two as well, and each gradient is
also computed alone. Both runs need the same processor and the same NumPy. All NaNs count as the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cases import (
    DIFFERENTIABLE,
    F32,
    LAYOUTS,
    NUMBERS,
    OPTIONAL,
    SUBJECTS,
    arguments,
    arrays,
    cases_of,
    dtypes_of,
    keywords_of,
    laid_out,
    operation,
    random_like,
    replaced,
)

import bilateral_ops
from bilateral_ops import LumaGuide
from bilateral_ops.ops import OPERATIONS

#: Beside the tests' subjects: slice_apply with the image's luma for its guide.
LUMA = "slice_apply(luma)"


def subject_cases(subject: str) -> Iterator[tuple[str, Any, dict[str, Any], dict[str, Any]]]:
    """Name, dtypes, arguments and keywords of every call of the subject."""
    like = "slice_apply" if subject == LUMA else subject
    for case, options in cases_of(like).items():
        if subject == LUMA and options.get("Ci", 3) != 3:
            continue
        for dtypes in dtypes_of(like):
            given = arguments(like, dtypes, **options)
            if subject == LUMA:
                given["guide"] = LumaGuide()
            yield case, dtypes, given, keywords_of(options)


def call(subject: str, given: Mapping[str, Any], grad: Any, keywords: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The results of the forward (grad is None) or of the VJP, by name."""
    name = operation(subject)
    found = OPERATIONS[name]
    if name == "total_variation" and grad is None:
        more = {}  # it takes no out
    optional = {key: value for key, value in given.items() if key in OPTIONAL}
    if grad is None:
        positional = [value for key, value in given.items() if key not in OPTIONAL]
        return {"result": found.function(*positional, **optional, **keywords, **more)}
    positional = [value for key, value in given.items() if key not in (*OPTIONAL, *NUMBERS)]
    gradients = found.vjp(*positional, grad, **optional, **keywords, **more)
    return {key: value for key, value in gradients._asdict().items() if value is not None}


def digest(results: Mapping[str, Any]) -> str:
    """A hash of the results' dtypes, shapes and bits."""
    made = hashlib.blake2b(digest_size=8)
    for name, value in results.items():
        bits = np.ascontiguousarray(value)
        if bits.dtype.kind != "u":
            bits = np.where(np.isnan(bits), np.asarray(np.nan, bits.dtype), bits)
        made.update(f"{name} {bits.dtype} {bits.shape}".encode())
        made.update(bits.tobytes())
    return made.hexdigest()


def hashes_of(
    subject: str, given: Mapping[str, Any], grad: Any, keywords: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """A hash for each way to make this call, with its name."""
    results = call(subject, given, grad, keywords)
    yield "contiguous", digest(results)
    bilateral_ops.set_num_threads(2)
    yield "2 threads", digest(call(subject, given, grad, keywords))
    bilateral_ops.set_num_threads(1)
    if grad is not None and len(results) > 1:
        for name in results:
            yield f"{name} alone", digest(call(subject, given, grad, keywords, wrt=name))
    for layout in LAYOUTS:
        inputs = replaced(given, **{name: laid_out(array, layout) for name, array in arrays(given).items()})
        out = {name: laid_out(array, layout) for name, array in results.items() if np.ndim(array)}
        more = {"out": out["result"] if grad is None else out} if len(out) == len(results) else {}
        yield layout, digest(call(subject, inputs, None if grad is None else laid_out(grad, layout), keywords, **more))


def all_hashes(subjects: list[str]) -> Iterator[tuple[str, str]]:
    """A hash for every call, with its name."""
    bilateral_ops.set_num_threads(1)
    for subject in subjects:
        differentiable = operation(subject) in DIFFERENTIABLE
        for case, dtypes, given, keywords in subject_cases(subject):
            result = call(subject, given, None, keywords)["result"]
            grad = random_like(result.shape, F32 if result.dtype.kind == "u" else result.dtype)
            grads = (None, grad) if differentiable else (None,)
            for isa in bilateral_ops.available_isas():
                bilateral_ops.set_isa(isa)
                for grad in grads:
                    direction = "forward" if grad is None else "vjp"
                    for way, made in hashes_of(subject, given, grad, keywords):
                        yield f"{subject} {direction}, {dtypes}, {case}, {isa}, {way}", made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", type=Path, metavar="FILE")
    way.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--subject", action="append", choices=(*SUBJECTS, LUMA), help="default: all")
    options = parser.parse_args()
    print(f"{bilateral_ops.__file__}: {', '.join(bilateral_ops.available_isas())}", file=sys.stderr)
    hashes = dict(all_hashes(options.subject or [*SUBJECTS, LUMA]))
    if options.write:
        options.write.write_text(json.dumps(hashes, indent=0))
        print(f"{len(hashes)} calls")
        return 0
    kept = json.loads(options.compare.read_text())
    if options.subject:
        kept = {name: value for name, value in kept.items() if name.split(" ")[0] in options.subject}
    missing = [name for name in sorted(kept.keys() | hashes.keys()) if (name in kept) != (name in hashes)]
    different = [name for name in hashes if name in kept and hashes[name] != kept[name]]
    for what, names in (("only in one run", missing), ("not the same bits", different)):
        for name in names[:20]:
            print(f"{what}: {name}")
    print(f"{len(hashes)} calls, {len(different)} differ, {len(missing)} in one run only")
    return 1 if missing or different or not hashes else 0


if __name__ == "__main__":
    sys.exit(main())
