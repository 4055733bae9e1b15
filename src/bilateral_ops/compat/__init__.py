"""Other packages' signatures on this package's operations: replace the import, and their callers run on these kernels.

``compat.hdrnet`` takes arrays of any framework; ``compat.lib_bilagrid`` is a PyTorch module. Neither is imported here.
"""
