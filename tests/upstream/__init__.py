"""Does each library still look inside as engine/backends/README.md says? Run after a change of a
lock."""
