"""Time an operation of your own beside this package's, a reference, or anything that computes the same.

    from bilateral_ops import bench

    report = bench.compare({"mine": my_slice_apply, "theirs": bilateral_ops.slice_apply}, (grid, guide, image))
    print(report)
    report.save("times.json")
    report.plot("times.png")

The command ``bilateral-ops bench my_file.py:my_slice_apply --like slice_apply`` does the same with arguments, this
package's operation and the references at hand. The function, and ``my_slice_apply_vjp`` where there is one, are called
by position, as this package's. How times are compared: :func:`compare`.
"""

from __future__ import annotations

from ._compare import compare
from ._report import Report, Row

__all__ = ["Report", "Row", "compare"]
