"""The algorithm alone: step, objectives, method, optimizers, schedules, batches.

No path, no console and no thread in here.
"""
