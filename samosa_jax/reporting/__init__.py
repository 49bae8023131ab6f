"""Reports of runs and comparisons between them, from what runs leave on disk; nothing here needs a model."""
