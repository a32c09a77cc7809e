"""The parts of the store: places that hold files, manifests, the rule of what to keep, copies on the host, shards."""
