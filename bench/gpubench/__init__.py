"""gpubench: which NVIDIA card should train my model, and does the card I have perform as it should?

Importing the package imports nothing and touches no device. The names for authors of workloads
are in `gpubench.workload` and `gpubench.errors`.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
