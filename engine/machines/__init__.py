"""What runs it? Devices, the sizes of models, what fits where, and cluster files."""
