"""How a model is trained: losses, optimizer, schedules, state, the jitted step, and the loop around it."""
