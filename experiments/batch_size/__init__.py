"""Trains a student with many batch sizes, and measures speed, memory, gradient noise and accuracy."""
