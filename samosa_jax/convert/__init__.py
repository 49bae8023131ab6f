"""Weights in and out: PyTorch, Hugging Face, nanochat."""
