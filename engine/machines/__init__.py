"""What runs it, and what does it take? Devices, sizes of models, what fits where, and plans."""
