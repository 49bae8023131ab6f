"""`python -m samosa_kernels.bench`: every implementation in turn on the same inputs, and what it achieved."""
