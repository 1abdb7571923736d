"""What a run leaves behind: metrics and files, in JSON lines, TensorBoard and Weights & Biases."""

from distill.tracking._loggers import EpochLogger, Tracker

__all__ = ["EpochLogger", "Tracker"]
