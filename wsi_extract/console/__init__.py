"""What a run shows to the person, or the log, that watches it."""
