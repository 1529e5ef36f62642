"""The advice to ask for huge pages comes only where it helps."""

import pytest

from deeplab_jax import huge_pages


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """A CPU with glibc whose kernel gives huge pages to those who ask."""
  mode = tmp_path / "enabled"
  mode.write_text("always [madvise] never\n")
  monkeypatch.setattr(huge_pages, "_MODE", mode)
  monkeypatch.setattr(
    huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36")
  )
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  return mode


def test_advice_names_the_setting(machine):
  assert f"GLIBC_TUNABLES={huge_pages.TUNABLE}" in huge_pages.advice()


def test_no_advice_where_they_are_asked_for(machine, monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", huge_pages.TUNABLE)
  assert huge_pages.advice() is None


@pytest.mark.parametrize("mode", ["[always] madvise never", "always [never]"])
def test_no_advice_where_the_kernel_decides(machine, mode):
  machine.write_text(mode)
  assert huge_pages.advice() is None


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_no_advice_without_a_library_that_knows_them(
  machine, monkeypatch, library
):
  monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
  assert huge_pages.advice() is None
