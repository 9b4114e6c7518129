"""Faults injected into runs from outside: no line of the program knows of them."""
