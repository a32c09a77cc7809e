"""Base class of the dense heads, and of their train and test settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self, cast

from torch import Tensor

from raydet3d.config import ConfigValue
from raydet3d.models.module import BaseModule, ConfigType
from raydet3d.registry import TASK_UTILS
from raydet3d.structures import Det3DDataSample, InstanceData
from raydet3d.structures.sample_types import SampleMeta

Losses = dict[str, Any]


class HeadCfg:
    """Settings of a head, checked and typed; can be read like the config dict that they come from.

    Subclasses are frozen dataclasses.
    """

    @classmethod
    def from_cfg(cls, cfg: ConfigType, *, strict: bool) -> Self:
        """Build the settings.

        Args:
            cfg: A config dict.
            strict: Refuse unknown keys. Otherwise they are kept for `get`, which subclasses of a head rely on.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        extra = {} if strict else {key: value for key, value in cfg.items() if key not in known}
        built: Self = TASK_UTILS.build({**{k: v for k, v in cfg.items() if k not in extra}, "type": cls})
        object.__setattr__(built, "_extra", extra)
        return built

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("_extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no setting {name!r}")

    def get(self, key: str, default: ConfigValue = None) -> Any:
        """Return a setting, or the default if there is none of this name."""
        return getattr(self, key, default)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, key)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and hasattr(self, key)


class Base3DDenseHead(BaseModule):
    """Base class of dense heads; subclasses define `forward`, `loss_by_feat` and `predict_by_feat`.

    `loss` calls `forward` and `loss_by_feat`; `predict` calls `forward` and `predict_by_feat`.
    """

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any) -> Losses:
        """Compute the losses of a batch.

        Args:
            x: One (B, C, H, W) map per level.
            batch_data_samples: B samples with `gt_instances_3d`.
            **kwargs: Not used.

        Returns:
            Losses by name; a tensor, or a list with one per level.
        """
        losses: Losses = self.loss_by_feat(*self(x), *self._ground_truth(batch_data_samples))
        return losses

    def predict(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[Det3DDataSample], rescale: bool = False
    ) -> list[InstanceData]:
        """Predict boxes.

        Args:
            x: One (B, C, H, W) map per level.
            batch_data_samples: B samples; `box_type_3d` of their meta information is the class of the boxes.
            rescale: Not used.

        Returns:
            `bboxes_3d`, `scores_3d` and `labels_3d` of each sample.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        predictions: list[InstanceData] = self.predict_by_feat(*self(x), batch_input_metas=metas, rescale=rescale)
        return predictions

    def loss_and_predict(
        self,
        x: Sequence[Tensor],
        batch_data_samples: Sequence[Det3DDataSample],
        proposal_cfg: HeadCfg | None = None,
        **kwargs: Any,
    ) -> tuple[Losses, list[InstanceData]]:
        """Compute losses and predictions from one forward pass (for a head that proposes regions)."""
        outs = self(x)
        truth = self._ground_truth(batch_data_samples)
        return self.loss_by_feat(*outs, *truth), self.predict_by_feat(
            *outs, batch_input_metas=truth[1], cfg=proposal_cfg
        )

    @staticmethod
    def _ground_truth(
        samples: Sequence[Det3DDataSample],
    ) -> tuple[list[InstanceData], list[SampleMeta], list[InstanceData | None]]:
        """Return ground truth, meta information and ignored instances of a batch."""
        return (
            [sample.gt_instances_3d for sample in samples],
            [cast(SampleMeta, sample.metainfo) for sample in samples],
            [sample.get("ignored_instances") for sample in samples],
        )

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Losses:
        """Compute losses from the outputs of `forward`, ground truth, meta information and ignored instances."""
        raise NotImplementedError

    def predict_by_feat(self, *args: Any, **kwargs: Any) -> list[InstanceData]:
        """Predict boxes from the outputs of `forward`."""
        raise NotImplementedError
