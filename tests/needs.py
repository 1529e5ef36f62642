"""What some tests need, and skip loudly without."""

import os

import pytest

from deeplab_jax.inference import onednn

_AVAILABLE = onednn.is_available()
# Processes that tests start, with caches of their own, need not try it again.
os.environ.setdefault("DEEPLAB_ONEDNN", str(int(_AVAILABLE)))

needs_onednn = pytest.mark.skipif(
  not _AVAILABLE,
  reason="SKIPPED FOR LACK OF ONEDNN: its trial failed, or this is no such CPU",
)
needs_onednn_bfloat16 = pytest.mark.skipif(
  not onednn.is_available("bfloat16"),
  reason="SKIPPED FOR LACK OF ONEDNN IN BFLOAT16: this CPU has no AVX512_BF16",
)
