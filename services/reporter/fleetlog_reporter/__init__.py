"""Answer questions about the log from DuckDB and memory."""
