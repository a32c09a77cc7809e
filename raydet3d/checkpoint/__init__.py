"""Checkpoints: manifest, storage, store, retention and safe loading."""
