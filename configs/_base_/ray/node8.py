"""Ray on one node with eight GPUs: eight workers on that node, with CPUs for their loader workers.

    python -m raydet3d.train CONFIG            # with `'../_base_/ray/node8.py'` among the config's _base_
    python -m raydet3d.train CONFIG --ray cpus_per_worker=6

The published `8xb...` configs are laid out for this. On a node with fewer GPUs keep the iteration as it is by
`--workers 4 --ray batch_workers=8`: four workers then do two batches each.
"""

ray = dict(
    num_workers=8,
    gpus_per_worker=1,
    cpus_per_worker=4,
    placement_strategy="STRICT_PACK",
    max_failures=3,
    hang_timeout_s=600,
)
