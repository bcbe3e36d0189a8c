"""cnnbench: which CNN, in which runtime, on which hardware, how fast, and why."""

__version__ = "0.1.0"
