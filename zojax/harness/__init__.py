"""The engine as a model of lm-eval, EleutherAI's evaluation harness, and its tasks.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
