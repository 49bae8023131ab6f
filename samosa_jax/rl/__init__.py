"""Reinforcement learning: what an answer earns, how answers compare, and the loss that follows."""
