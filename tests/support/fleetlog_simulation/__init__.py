"""A whole fleet in virtual time from one seed: the real pure units on a memory bus that loses, delays and repeats."""
