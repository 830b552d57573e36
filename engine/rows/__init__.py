"""What flows between stages? Typed rows, their Parquet tables and signal, their ids, and what an
answer says."""
