"""Slides as files and as pixels: found, described, opened, read."""
