"""Calling an operation: its declaration, checks and error messages, dispatch by array type, settings.

Used by everything above: ``ops`` and ``frameworks`` first. Nothing here imports ``photo``, ``hdrnet`` or ``cli``, which
use ``whole``, files that are there whole or not at all.
"""
