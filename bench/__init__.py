"""Measure fleetlog and the machine it runs on in one run: `python -m bench`, or `just bench`."""
