"""The commands: one file each, with its arguments, its work and its output.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
