"""The keeper: seals the log's past in segments of the archive, and prunes what is sealed from the bus."""
