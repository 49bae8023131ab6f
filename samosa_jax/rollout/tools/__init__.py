"""Tools that the assistant may call while it answers: what one is, those there are, how they are run."""
