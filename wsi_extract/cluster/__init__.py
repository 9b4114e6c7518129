"""Tasks on the processes of one node or of several: the only package that knows Dask.

Three clusters are prepared by `clusters` (of this machine, or one that somebody else has started) and `node_cluster`
(of the nodes of one job: `node_group` knows which one this is, `node_follower` is what the others do, `roll` who is
there). `schedule` runs tasks on any of them. It decides with what is pure: `placement` (who works on what), `bundles`
(what travels together), `shift` (what is where), `casualties` and `blame` (what a death means). It acts through
`cluster_calls`, the driver's side, of which `worker_calls` is the workers' side; `parcels` are files on their way.
"""
