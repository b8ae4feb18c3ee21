"""Answer rows that nobody has labelled, as many as a file has.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
