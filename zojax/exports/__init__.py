"""Models for others: PEFT, Hugging Face, model cards.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
