"""What a run will take before it begins: memory, time, money, disk and data."""
