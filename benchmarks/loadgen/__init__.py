"""Can the load test's verdict be trusted? See README.md beside this file."""
