"""Plan runs on machines that are not here: the memory, links and time that they need.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
