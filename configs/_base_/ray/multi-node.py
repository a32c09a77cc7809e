"""Ray on a cluster whose nodes come and go: one to sixteen GPU workers, as many as there is room for.

    ray job submit --working-dir . -- python -m raydet3d.train CONFIG --work-dir /shared/runs/NAME

An iteration is always the batches of sixteen workers: with fewer, each does several of them. The work dir must be
seen by all nodes. An autoscaler may take half an hour to bring the first worker.
"""

ray = dict(
    num_workers=(1, 16),
    gpus_per_worker=1,
    cpus_per_worker=4,
    placement_strategy="PACK",
    max_failures=20,
    resource_timeout_s=1800,
    resize_interval_s=60,
    hang_timeout_s=900,
    env_vars=dict(NCCL_ASYNC_ERROR_HANDLING="1"),
)
