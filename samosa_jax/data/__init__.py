"""From text to batches of numpy arrays. Never imports JAX."""
