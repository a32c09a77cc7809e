"""Ray on this machine: one worker for each GPU, or two workers on a laptop without any.

    python -m raydet3d.train CONFIG            # with `'../_base_/ray/local.py'` among the config's _base_
"""

ray = dict(
    num_workers=2,
    cpus_per_worker=1,
    max_failures=3,
    hang_timeout_s=600,
)
