"""Tinker's API: its client trains LoRAs step by step on the weights that serve.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
