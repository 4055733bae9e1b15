"""Pictures and videos: formats, metadata, and the ``enhance`` job.

``images`` has what all pictures share; ``formats``, ``boxed`` and ``tiff`` read and write them; ``metadata`` is what
they say; ``video`` is the same for videos, whose frames are ``planes``; ``job`` enhances files by a
``hdrnet.Predictor``, for users ``bilateral_ops.hdrnet.enhance_files`` and ``bilateral-ops enhance``.
"""
