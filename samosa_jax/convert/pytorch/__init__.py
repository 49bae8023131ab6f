"""The network in PyTorch, as it is shipped with exported weights: no shipped file needs samosa_jax."""
