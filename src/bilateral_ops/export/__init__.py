"""The operations in other runtimes' formats, to run where this package does not.

:mod:`bilateral_ops.export.onnx` writes graphs of standard ONNX operators; it needs the extra ``bilateral_ops[onnx]``.
Importing this package imports no format's library.
"""
