"""Importing this module names the extra to install if a package that `distill.data` imports is missing."""

from distill._extras import needed

with needed("distill.data", "experiments"):
    import tensorflow_datasets

__all__ = ["tensorflow_datasets"]
