"""Object stores: addresses such as gs://bucket/run in place of folders.

An object is put whole or not at all, and read whole; there are no folders, no
renames and no appending. What is above makes do with that: `trees` moves whole
folders, `follow` copies files that grow. Requests go through tensorstore, which
the checkpoints need anyway.
"""

from deeplab_jax.remote.address import (
  Address,
  AnyPath,
  as_path,
  is_address,
  require_writable,
)
from deeplab_jax.remote.follow import Follower
from deeplab_jax.remote.store import StoreError
from deeplab_jax.remote.trees import (
  UNFINISHED,
  copy_tree,
  download,
  remove_tree,
  upload,
)

__all__ = [
  "UNFINISHED",
  "Address",
  "AnyPath",
  "Follower",
  "StoreError",
  "as_path",
  "copy_tree",
  "download",
  "is_address",
  "remove_tree",
  "require_writable",
  "upload",
]
