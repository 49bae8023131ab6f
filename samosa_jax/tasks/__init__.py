"""Problems with known answers: one class gives conversations to train on and scores. Never imports JAX."""
