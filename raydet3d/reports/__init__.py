"""Reports of runs from their files alone: a page of charts and tables, and the state of a run that is at work."""
