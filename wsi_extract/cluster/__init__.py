"""Tasks on the processes of one node or of several: the only package that knows Dask."""
