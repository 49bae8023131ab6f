"""What is wrong with a machine or its software, found before a run finds it."""
