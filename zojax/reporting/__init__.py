"""Report a run: progress, metrics, TensorBoard, curves.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
