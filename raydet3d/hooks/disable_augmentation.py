"""`DisableObjectSampleHook` and `DisableAugHook`: disable augmentations in the last epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from raydet3d.config.type_check import NonNegativeInt, checked
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.registry import HOOKS


class _TransformHolder(Protocol):
    def disable_transform(self, name: str, from_epoch: int) -> int:
        """Disable a transform from an epoch on, and return how many of that name there are."""


@HOOKS.register_module()
class DisableAugHook(Hook):
    """Disable transforms after a number of epochs.

    The dataset is configured before its loader starts, and every index carries its epoch. Therefore the setting also
    applies in persistent workers, after a resume at any point, and through nested dataset wrappers. Priority NORMAL.

    Args:
        disable_after_epoch: Number of epochs in which the transforms are applied.
        disable_aug_list: Names of the transforms, as in the pipeline.
    """

    priority = "NORMAL"

    @checked
    def __init__(self, disable_after_epoch: NonNegativeInt = 15, disable_aug_list: str | Sequence[str] = ()) -> None:
        self.disable_after_epoch = disable_after_epoch
        self.disable_aug_list = [disable_aug_list] if isinstance(disable_aug_list, str) else list(disable_aug_list)

    def before_train(self, runner: RunContext) -> None:
        """Set the epoch after which the dataset disables the transforms."""
        told = list(_told(runner.train_dataloader.dataset))
        for name in self.disable_aug_list:
            if not sum(one.disable_transform(name, self.disable_after_epoch) for one in told):
                runner.logger.warning(
                    "%s has nothing to do: the training data set's pipeline has no %s", type(self).__name__, name
                )


@HOOKS.register_module()
class DisableObjectSampleHook(DisableAugHook):
    """Disable `ObjectSample` after a number of epochs, as `DisableAugHook` does for any transform.

    Args:
        disable_after_epoch: Number of epochs in which sampled objects are pasted.
    """

    def __init__(self, disable_after_epoch: int = 15) -> None:
        super().__init__(disable_after_epoch, ["ObjectSample"])


def _told(dataset: object) -> Iterator[_TransformHolder]:
    """Yield the objects that can disable transforms: innermost datasets, and the pipelines of their wrappers.

    Wrappers are traversed and not called, since a custom wrapper may not forward `disable_transform`.
    """
    held = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]
    inner = [one for one in held if one is not None]
    if not inner and hasattr(dataset, "disable_transform"):
        yield cast("_TransformHolder", dataset)
    elif hasattr(pipeline := getattr(dataset, "pipeline", None), "disable_transform"):
        yield cast("_TransformHolder", pipeline)
    for one in inner:
        yield from _told(one)
