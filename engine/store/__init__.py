"""Where do bytes lie? A folder or an object store, and files that appear whole or not at all."""
