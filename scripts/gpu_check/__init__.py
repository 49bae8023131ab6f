"""What a first run on one accelerator should answer: are the kernels right, and how fast is everything."""
