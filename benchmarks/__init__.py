"""Benchmarks: what reading, writing and coding of patches costs, measured side by side.

    texture        pixels that compress and decode as those of scanned H&E
    timing         interleaved measurements that refuse to time nothing
    report         tables and the plot; machine and versions
    codecs         bytes and time per codec, and who reads it          python -m benchmarks.codecs
    formats        the ways to store patches that people use, written and read as they are used
    ours           this package's stores, through its public readers
    loading        loading for training, format by format              python -m benchmarks.loading
    scanned_slides generated slides with the grain of scans; kept in a cache
    extraction     whole jobs against their limit and the naive script  python -m benchmarks.extraction
    anchored       the default job on many slides                      python -m benchmarks.anchored
    stages         where the time of a job goes                        python -m benchmarks.stages
    scaling        one and two workers, the cost of a task             python -m benchmarks.scaling
    cost_model     time and memory by size, and projections            python -m benchmarks.cost_model
    png_encoders   encoders of PNG files, and writing them             python -m benchmarks.png_encoders
    stain          stain normalisation                                 python -m benchmarks.stain
    peers          other programs doing the same work                  python -m benchmarks.peers
    processes, jobs, rounds, discarding, results, charts, document     what these share

Times are seconds, sizes bytes; a patch is ``(H, W, 3)`` uint8.
"""
