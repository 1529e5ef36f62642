"""Fixtures shared by all tests."""

import os
import pathlib

import pytest

from tests.exactness import Exactness

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_EXACTNESS = pytest.StashKey[Exactness]()


def pytest_addoption(parser: pytest.Parser) -> None:
  """Adds the option that `make exactness` gives."""
  parser.addoption("--exactness", type=pathlib.Path, help="write errors here")


def pytest_configure(config: pytest.Config) -> None:
  """Begins to collect errors."""
  config.stash[_EXACTNESS] = Exactness()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
  """Writes the collected errors if all tests passed."""
  path = session.config.getoption("--exactness")
  if path and exitstatus == pytest.ExitCode.OK:
    session.config.stash[_EXACTNESS].write(path)


@pytest.fixture(scope="session")
def exactness(pytestconfig: pytest.Config) -> Exactness:
  """Where tests on golden files report and check their errors."""
  return pytestconfig.stash[_EXACTNESS]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference facts, real images and weights (not public).

  `$DEEPLAB_SHARED`, else `../shared` beside the checkout. Tests that use it
  skip without it, or fail if `$DEEPLAB_REQUIRE_SHARED` is set (`.ci/run`).
  """
  default = _REPOSITORY.parent / "shared"
  folder = pathlib.Path(os.environ.get("DEEPLAB_SHARED", default))
  if (folder / "reference").is_dir():
    return folder
  message = f"SKIPPED FOR LACK OF DATA: no reference folder at {folder}"
  if os.environ.get("DEEPLAB_REQUIRE_SHARED"):
    pytest.fail(message)
  pytest.skip(message)
