"""Compares a small student that learns alone with one that is distilled, and with its rivals in size."""
