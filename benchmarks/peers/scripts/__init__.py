"""How each program cuts patches, as its documentation shows it; only these files are run in its environment.

They know nothing of this package and use nothing but the standard library and the program they are named after.
"""
