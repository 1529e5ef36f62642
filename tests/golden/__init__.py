"""Our errors against the stored outputs of the official implementation.

One module per kind of golden file; each function returns errors by the name of
the quantity. Tests hold them to the tolerances of `official-deeplab.md`,
section 14, and `python -m tests.golden` writes them to `docs/exactness.md`.
"""
