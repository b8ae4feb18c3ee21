"""A run directory and its life: begin, resume, train in chunks, stop, evaluate, finish.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
