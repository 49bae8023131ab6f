"""Many runs that answer one question: what a change is worth, and how loss falls with size."""
