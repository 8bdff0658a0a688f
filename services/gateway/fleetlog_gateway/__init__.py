"""Serve HTTP: authenticate, validate, append requests, ask, feed."""
