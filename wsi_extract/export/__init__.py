"""Finished data sets in the layouts that other tools read; see docs/export.md."""
