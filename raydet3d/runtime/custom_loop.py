"""The base for loops of one's own, by MMEngine's name; ours (``loops``) do without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raydet3d.hooks.context import RunContext
from raydet3d.runtime.loaders import build_dataloader

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class BaseLoop(ABC):
    """Something that ``train_cfg``, ``val_cfg`` or ``test_cfg`` may name: it is given a runner, and runs.

    Args:
        runner: The run.
        dataloader: A loader, or its config.
    """

    def __init__(self, runner: RunContext, dataloader: DataLoader[Any] | Mapping[str, Any]) -> None:
        self._runner = runner
        self.dataloader: DataLoader[Any] = (
            build_dataloader(dataloader, seed=runner.seed) if isinstance(dataloader, Mapping) else dataloader
        )

    @property
    def runner(self) -> RunContext:
        """The run."""
        return self._runner

    @abstractmethod
    def run(self) -> Any:
        """Do it."""
