"""What can be known to fail before anything runs? The job, its models and its training, read
without a heavy library."""
