"""What do you want? The job file and its fields."""
