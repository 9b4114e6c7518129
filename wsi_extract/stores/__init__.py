"""Sinks: turn the patches of one block into files. Each store writes whole blocks and reports what it wrote."""
