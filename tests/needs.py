"""What some tests need, and skip loudly without."""

import pytest

from deeplab_jax.inference import onednn

needs_onednn = pytest.mark.skipif(
  not onednn.is_available(),
  reason="SKIPPED FOR LACK OF ONEDNN: another jaxlib or machine than was tried",
)
