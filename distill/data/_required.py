"""Importing this module says which extra to install where what the room imports is missing."""

from distill._extras import needed

with needed("distill.data", "experiments"):
    import tensorflow_datasets

__all__ = ["tensorflow_datasets"]
