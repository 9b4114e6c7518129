"""The start of a job on a node: is this Python, with these packages, enough? If not, one is made that is.

Runs before anything else, on the Python of whatever environment a job is given, so all of it parses on Python 3.8 and
knows the standard library only.
"""
