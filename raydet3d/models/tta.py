"""Test-time augmentation: predict on several views of each sample and merge the predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models.module import BatchData, ConfigType
from raydet3d.registry import MODELS
from raydet3d.structures import DataElement

Views: TypeAlias = Mapping[str, Sequence[BatchData]] | Sequence[Mapping[str, BatchData] | Sequence[BatchData]]
"""A collated batch of samples with several views each."""


class BaseTTAModel(nn.Module):
    """Wraps a model to predict on each view of a batch; subclasses define `merge_preds`.

    Args:
        module: The model, or its config.
        data_preprocessor: Added to that config.
    """

    def __init__(self, module: nn.Module | ConfigType, data_preprocessor: nn.Module | ConfigType | None = None) -> None:
        super().__init__()
        if isinstance(module, Mapping):
            extra = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
            module = MODELS.build({**module, **extra})
        if not isinstance(module, nn.Module) or not hasattr(module, "test_step"):
            what = type(module).__name__
            raise InputError(f"{type(self).__name__}: module must be a model with a test_step, got {what}")
        self.module: Any = module

    def merge_preds(self, data_samples_list: Sequence[Sequence[DataElement]]) -> list[Any]:
        """Merge the predictions of each sample.

        Args:
            data_samples_list: For each sample of the batch, the predictions of its views.

        Returns:
            The merged prediction of each sample.
        """
        raise NotImplementedError(f"{type(self).__name__} must define merge_preds(data_samples_list)")

    @torch.no_grad()
    def test_step(self, data: Views) -> list[Any]:
        """Predict on every view and merge.

        Args:
            data: A collated batch of samples with several views each: a dict whose values are lists over the views, or
                a list over the views.
        """
        per_view = [self.module.test_step(view) for view in split_views(data)]
        return self.merge_preds(list(zip(*per_view, strict=True)))

    def forward(self, *args: object, **kwargs: object) -> None:
        """Raise `NotImplementedError`: the model is for `test_step` only."""
        raise NotImplementedError(f"{type(self).__name__} has no forward; call test_step")


def split_views(data: Views) -> list[Any]:
    """Split a batch of samples with several views into one batch per view.

    Args:
        data: Output of the collate function: `{key: [view, ...]}`, `[{key: ...}, ...]` with one dict per view, or a
            tuple of lists over the views.

    Example:
        >>> split_views({"inputs": [["a0", "b0"], ["a1", "b1"]], "data_samples": [[0, 1], [2, 3]]})[1]
        {'inputs': ['a1', 'b1'], 'data_samples': [2, 3]}
    """
    if isinstance(data, Mapping):
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    if isinstance(data, Sequence) and data and all(isinstance(view, Mapping) for view in data):
        return list(data)
    if isinstance(data, Sequence) and data:
        return [list(parts) for parts in zip(*data, strict=True)]
    raise InputError(f"test-time augmentation needs a batch of views, got {type(data).__name__}")
