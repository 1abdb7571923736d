"""Compares ways to prune single weights, at several sparsities."""
