"""The vocabulary every unit shares: ids, events, lifecycle, pushes, reports, subjects. Imports nothing of ours."""
