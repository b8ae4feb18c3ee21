"""The algorithm alone: step, objectives, method, optimizers, schedules, batches.

No path, no console and no thread in here.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""
