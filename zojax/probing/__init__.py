"""Which directions are worth probing: measured at a model and its data, before any training.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
