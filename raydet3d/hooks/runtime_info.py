"""`RuntimeInfoHook`: record progress, learning rates, losses and metrics in the message hub."""

from __future__ import annotations

from raydet3d import __version__
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext
from raydet3d.hooks.metric_rules import to_number
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class RuntimeInfoHook(Hook):
    """Record progress, learning rates, losses and metrics in `runner.message_hub`.

    Learning rates are read before the step, so that the logged rate is the one that the step used. Losses stay on
    their device. Priority VERY_HIGH: before other hooks read the values. It is registered even if the config does not
    list it.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.last_loop_stage: str | None = None

    def before_run(self, runner: RunContext) -> None:
        """Record config, seed, experiment name and version."""
        runner.message_hub.update_info_dict(
            {
                "cfg": runner.cfg_text,
                "seed": runner.seed,
                "experiment_name": runner.experiment_name,
                "version": __version__,
            },
            resumed=False,
        )

    def before_train(self, runner: RunContext) -> None:
        """Record where training starts and ends, and the metainfo of the dataset."""
        dataset = runner.train_dataloader.dataset  # first: the loop that it belongs to knows where training ends
        runner.message_hub.update_info_dict(
            {
                "loop_stage": "train",
                "epoch": runner.epoch,
                "iter": runner.iter,
                "max_epochs": runner.max_epochs,
                "max_iters": runner.max_iters,
                "dataset_meta": getattr(dataset, "metainfo", None),
            },
            resumed=False,
        )

    def after_train(self, runner: RunContext) -> None:
        """Remove the loop stage."""
        runner.message_hub.pop_info("loop_stage")

    def before_train_epoch(self, runner: RunContext) -> None:
        """Record the epoch."""
        runner.message_hub.runtime_info["epoch"] = runner.epoch

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record the iteration and the learning rates."""
        hub = runner.message_hub
        hub.runtime_info["iter"] = runner.progress.iter
        for name, rates in runner.optim_wrapper.get_lr().items():
            hub.update_scalar("train/" + name, rates[0])

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Record the losses."""
        if outputs:
            update = runner.message_hub.update_scalar
            for name, value in outputs.items():
                update("train/" + name, value)

    def before_val(self, runner: RunContext) -> None:
        """Set the loop stage to `val`."""
        self.last_loop_stage = runner.message_hub.get_info("loop_stage")
        runner.message_hub.update_info("loop_stage", "val", resumed=False)

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Record the validation metrics."""
        self._keep(runner, "val", metrics)

    def after_val(self, runner: RunContext) -> None:
        """Restore the loop stage from before the validation."""
        if self.last_loop_stage is None:
            runner.message_hub.pop_info("loop_stage")
        else:
            runner.message_hub.update_info("loop_stage", self.last_loop_stage, resumed=False)
            self.last_loop_stage = None

    def before_test(self, runner: RunContext) -> None:
        """Set the loop stage to `test`."""
        runner.message_hub.update_info("loop_stage", "test", resumed=False)

    def after_test(self, runner: RunContext) -> None:
        """Remove the loop stage."""
        runner.message_hub.pop_info("loop_stage")

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Record the test metrics."""
        self._keep(runner, "test", metrics)

    def _keep(self, runner: RunContext, mode: str, metrics: Metrics) -> None:
        hub = runner.message_hub
        found = {key: to_number(value) for key, value in (metrics or {}).items()}
        hub.update_info(f"{mode}_metrics", found)
        for key, value in found.items():
            if isinstance(value, (int, float)):
                hub.update_scalar(f"{mode}/{key}", value)
            else:
                hub.update_info(f"{mode}/{key}", value)
