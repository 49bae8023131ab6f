"""Train a chat language model from nothing, in JAX: tokenizer to serving."""

__version__ = "0.1.0"
