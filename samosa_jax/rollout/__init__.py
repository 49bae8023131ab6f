"""Answers of a model: the engine that writes tokens, the turns read from them, and the tools they call."""
