"""Compares ways to remove channels, and networks that were small from the start."""
