"""Importing this module names the extra to install if a package that `distill.studies` imports is missing."""

from distill._extras import needed

with needed("distill.studies", "experiments"):
    import matplotlib
    import rich
    import scipy
    import tyro
    import vl_convert

__all__ = ["matplotlib", "rich", "scipy", "tyro", "vl_convert"]
