"""DeepLabv3+ in JAX: models, training, exact published results."""
