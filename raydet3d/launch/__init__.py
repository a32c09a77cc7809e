"""The floor that knows Ray: from a config to workers that train, and back with their result."""
