"""Data sets that need no network, and batches of a user's own arrays.

sets = data.load("mnist5k")
student.fit(data.batches(sets.train, 64, seed=0), validation_data=data.batches(sets.dev, 64))
"""

from distill.data._loading import Splits, arrays, batches, load, mixup

__all__ = ["Splits", "arrays", "batches", "load", "mixup"]
