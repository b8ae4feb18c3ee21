"""Compiled programs, made ahead and counted; a request to stop.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
