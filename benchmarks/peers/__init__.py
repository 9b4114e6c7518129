"""Other programs on the same work: the same slide, the same patches, PNG files, one core.

    catalogue      the programs, what each needs, and what was left out and why
    environments   a virtual environment for each, made here and kept
    scripts        how each is used: one file per program, run in its environment
    same_patches   whether a program made the patches it was asked for
    comparison     interleaved rounds against this package
    tables         the report                                     python -m benchmarks.peers --out DIR

Times are CPU seconds of whole processes.
"""
