"""Evaluate a model on a data set.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
