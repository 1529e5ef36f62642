"""What is wrong with this data or config, by name, before training.

  python -m deeplab_jax.doctor --config configs/folder.py \
    --config.data.path=DIR --html report.html
"""

from deeplab_jax.doctor.checkup import CHECKS, Checkup, examine
from deeplab_jax.doctor.findings import Finding, Mention, Severity

__all__ = ["CHECKS", "Checkup", "Finding", "Mention", "Severity", "examine"]
