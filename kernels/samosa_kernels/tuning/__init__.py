"""How each kernel cuts its work into tiles, as data: one table per kind of device."""

from samosa_kernels.tuning.config import KERNELS, TuningConfig
from samosa_kernels.tuning.table import find_tuning, tuning_override

__all__ = ["KERNELS", "TuningConfig", "find_tuning", "tuning_override"]
