"""Text from a model: sampling."""
