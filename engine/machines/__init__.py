"""What runs it? Devices, the sizes of models, what fits where, cluster files, and what a job takes."""
