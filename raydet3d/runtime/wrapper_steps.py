"""The steps of a model that stands in a wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Steps:
    """Makes a model's steps: forward passes go through the wrapper, all else is the model's own.

    Attributes:
        module: The model.
    """

    module: Any

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step of training.

        Args:
            data: A batch from the loader.
            optim_wrapper: Takes the loss and updates the parameters.

        Returns:
            The losses by name, ``loss`` first.
        """
        wrapper: Any = self
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, True)
            losses = wrapper(**data, mode="loss") if isinstance(data, Mapping) else wrapper(*data, mode="loss")
        loss, log_vars = self.module.parse_losses(losses)
        self.look_at(loss)
        optim_wrapper.update_params(loss)
        out: dict[str, Tensor] = log_vars
        return out

    def look_at(self, loss: Tensor) -> None:
        """Called with each loss before the step, which lets go of its graph and of the gradients."""

    def val_step(self, data: Any) -> Any:
        """Predictions for a batch of validation."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """Predictions for a batch of testing."""
        return self.module.test_step(data)
