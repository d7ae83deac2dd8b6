"""gpubench: which NVIDIA card should train my model, and does the card I have perform as it should?

Importing the package imports nothing heavy and touches no device.
"""

from gpubench.errors import GpubenchError, Unsupported, WrongResult
from gpubench.workload import Case, Prepared, Work, Workload, workload

__version__ = "0.1.0"
__all__ = [
    "Case",
    "GpubenchError",
    "Prepared",
    "Unsupported",
    "Work",
    "Workload",
    "WrongResult",
    "__version__",
    "workload",
]
