"""The operations written plainly, to compare with.

``reference.numpy`` is the specification: float64, slow, meant to be read. ``reference.numba`` and ``reference.cupy``
are what one would write with Numba and with CuPy without this package; they need the extras ``numba`` and
``cupy``. All have the operations' own names and arguments, and ``NAME_vjp`` for each gradient.
Importing this package imports none of them.
"""
