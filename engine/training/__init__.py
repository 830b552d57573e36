"""How does a student learn? Data, losses, the loop and what it leaves, in pure torch."""
