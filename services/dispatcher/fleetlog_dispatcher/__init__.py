"""Decide what runs where and when; see README.md beside this package."""
