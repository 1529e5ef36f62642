"""Trees of arrays as tests compare them."""

import jax
import numpy as np


def by_name(tree) -> dict[str, np.ndarray]:
  """The leaves on the host, by the path to each."""
  flat = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in flat}
