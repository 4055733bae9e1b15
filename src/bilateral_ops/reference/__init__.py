"""The operations written plainly, to compare with.

``reference.numpy`` is the specification: float64, slow, meant to be read. ``reference.numba`` is what one would write
with Numba without this package; it needs the extra ``bilateral_ops[numba]``. Both have the operations' own names and
arguments, and ``NAME_vjp`` for each gradient. Importing this package imports neither.
"""
