"""`python -m engine.cli`, as `distill`."""

from engine.cli import main

main()
