"""Fixtures shared by all tests."""

import os
import pathlib

import pytest

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference facts, real images and weights (not public).

  `$DEEPLAB_SHARED`, else `../shared` beside the checkout. Tests that use it
  skip without it; fails where `$DEEPLAB_REQUIRE_SHARED` is set, as in `.ci/run`.
  """
  default = _REPOSITORY.parent / "shared"
  folder = pathlib.Path(os.environ.get("DEEPLAB_SHARED", default))
  if (folder / "reference").is_dir():
    return folder
  message = f"SKIPPED FOR LACK OF DATA: no reference folder at {folder}"
  if os.environ.get("DEEPLAB_REQUIRE_SHARED"):
    pytest.fail(message)
  pytest.skip(message)
