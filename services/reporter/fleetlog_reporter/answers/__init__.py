"""Answers to questions about the log, one module for each topic; the SQL of each stands beside it."""
