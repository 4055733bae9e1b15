"""The operations in other runtimes' formats, to run where this package does not.

:mod:`bilateral_ops.export.onnx` writes graphs of standard ONNX operators; it needs the extra ``onnx``.
:mod:`bilateral_ops.export.glsl` writes shaders, for browsers and phones.
:func:`decompositions` lowers PyTorch's exported programs to PyTorch's own operators. Importing this package imports no
format's library.

PyTorch's and JAX's own exporters need nothing from here: ``torch.onnx.export``, with ``dynamo=True`` and ``False``,
makes plain operators of every call in a module, and so does ``jax.export`` where a size is symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["decompositions"]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What each of this package's operators is in PyTorch's own, for runtimes that know only these.

    A program that holds ``torch.ops.bilateral_ops.*`` becomes one that does not, forward and backward:

        exported = torch.export.export(module, arguments, dynamic_shapes=sizes)
        plain = exported.run_decompositions({**torch.export.default_decompositions(), **decompositions()})

    Returns
    -------
    dict
        Operator → function of the same arguments, for the tables that PyTorch's exporters and ExecuTorch take.

    Raises
    ------
    ImportError
        Where PyTorch is missing.

    Notes
    -----
    They compute what the kernels do to rounding, with the same gradients at the kinks; eight cells are gathered for
    each pixel, which takes the memory of eight images of coefficients.
    """
    from ..frameworks.torch import decompositions

    return decompositions()
