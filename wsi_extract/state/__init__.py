"""What a run has written down so far: who owns the folder, plans, records, faults."""
