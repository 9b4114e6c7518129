"""Turn a finished data set into one with another store, without the slides. `run.convert_dataset` tells the story."""
