"""The result of a run, and its replay.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
