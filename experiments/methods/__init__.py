"""Compares every distillation method of the library, side by side."""
