"""Benchmarks: what reading, writing and coding of patches costs, measured side by side.

    texture        pixels that compress and decode as those of scanned H&E
    timing         interleaved measurements that refuse to time nothing
    report         tables and the plot; machine and versions
    codecs         bytes and time per codec, and who reads it          python -m benchmarks.codecs
    formats        the ways to store patches that people use, written and read as they are used
    ours           this package's stores, through its public readers
    loading        loading for training, format by format              python -m benchmarks.loading

Times are seconds, sizes bytes; a patch is ``(H, W, 3)`` uint8.
"""
