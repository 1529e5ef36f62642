"""How a machine computes the layers: definitions and their fast forms.

`models/` says what a network is; the functions here are what it is made of,
each with one definition in `jax.lax` and, where XLA is slow at it, other forms
for a platform that compute the same:

  convolution   dense convolution, its padding, max pooling
  depthwise     depthwise atrous convolution
  resize        bilinear resizing with aligned corners, and its argmax
  canvas        a network kept to a part of what it runs on
  loops         elementwise loops that use all threads of a CPU
  whole         other functions in the place of these, for other runtimes
"""
