"""HTTP in front of the runtime: OpenAI's routes, keys and limits.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
