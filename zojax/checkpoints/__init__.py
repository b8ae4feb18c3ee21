"""Checkpoints: the shortcut beside the journal.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
