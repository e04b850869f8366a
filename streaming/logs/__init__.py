"""Archived logs: the records of topics as Parquet, for replay (not row versions for Feast)."""
