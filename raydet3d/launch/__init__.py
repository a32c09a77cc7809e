"""Launch runs on Ray: from a config to workers that train, and their result."""

import os

# Read by Ray when it is imported, or by the processes that it starts, so they stand before any import of it. What the
# user has set already stays.
SETTINGS = {
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # only rank 0 writes log lines: they need no "(RayTrainWorker pid=...)"
    "RAY_DEDUP_LOGS": "0",  # a training log repeats itself by nature
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # report() waits for one look of the controller
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else output of workers is printed twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the driver asks for draining nodes itself
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
