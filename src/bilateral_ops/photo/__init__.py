"""Pictures and videos: formats, metadata, files that are written whole or not at all, and the ``enhance`` job.

``images`` reads and writes whole pictures, ``tiff`` TIFF in bands, ``video`` videos, whose frames are ``planes``; ``job`` enhances files by a
``hdrnet.Predictor``. For users that is ``bilateral_ops.hdrnet.enhance_files`` and ``bilateral-ops enhance``.
"""
