"""What is measured on a trained model, and the pictures of a run."""
