"""Check a data set before it is trained on: read every frame once and report what is wrong, and what fits it."""
