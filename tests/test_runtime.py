"""The advice to ask for huge pages comes only where it helps."""

import pytest

from deeplab_jax import runtime


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """A CPU with glibc whose kernel gives huge pages to those who ask."""
  mode = tmp_path / "enabled"
  mode.write_text("always [madvise] never\n")
  monkeypatch.setattr(runtime, "_HUGE_PAGES_MODE", mode)
  monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  return mode


def test_advice_names_the_setting(machine):
  assert f"GLIBC_TUNABLES={runtime.HUGE_PAGES}" in runtime.huge_pages_advice()


def test_no_advice_where_they_are_asked_for(machine, monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", runtime.HUGE_PAGES)
  assert runtime.huge_pages_advice() is None


@pytest.mark.parametrize("mode", ["[always] madvise never", "always [never]"])
def test_no_advice_where_the_kernel_decides(machine, mode):
  machine.write_text(mode)
  assert runtime.huge_pages_advice() is None


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_no_advice_without_a_library_that_knows_them(
  machine, monkeypatch, library
):
  monkeypatch.setattr(runtime.platform, "libc_ver", lambda: library)
  assert runtime.huge_pages_advice() is None
