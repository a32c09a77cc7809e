"""Data: from files to batches. Importing the package registers its data sets, samplers and transforms."""

from raydet3d.data.dataset import Det3DDataset, check_dataset
from raydet3d.data.dataset_wrappers import CBGSDataset, ConcatDataset, RepeatDataset
from raydet3d.data.datasets.custom import CustomDataset
from raydet3d.data.datasets.kitti import KittiDataset
from raydet3d.data.datasets.nuscenes import NuScenesDataset
from raydet3d.data.pipeline import Compose, MultiScaleFlipAug3D, Transform
from raydet3d.data.samplers import DefaultSampler, InfiniteSampler
from raydet3d.data.seeded import EpochBatchSampler, SeededDataset, current_epoch
from raydet3d.data.transforms.augmentation import (
    GlobalRotScaleTrans,
    ObjectNameFilter,
    ObjectNoise,
    ObjectRangeFilter,
    PointShuffle,
    PointsRangeFilter,
    RandomFlip3D,
)
from raydet3d.data.transforms.custom_loading import LoadCustomPointsFromFile
from raydet3d.data.transforms.formatting import Pack3DDetInputs, pseudo_collate
from raydet3d.data.transforms.loading import LoadAnnotations3D, LoadPointsFromDict, LoadPointsFromFile
from raydet3d.data.transforms.multi_sweep import LoadPointsFromMultiSweeps
from raydet3d.data.transforms.object_sample import DataBaseSampler, ObjectSample
from raydet3d.data.transforms.voxelization import VoxelizePoints

__all__ = [
    "CBGSDataset",
    "Compose",
    "ConcatDataset",
    "CustomDataset",
    "DataBaseSampler",
    "DefaultSampler",
    "Det3DDataset",
    "EpochBatchSampler",
    "GlobalRotScaleTrans",
    "InfiniteSampler",
    "KittiDataset",
    "LoadAnnotations3D",
    "LoadCustomPointsFromFile",
    "LoadPointsFromDict",
    "LoadPointsFromFile",
    "LoadPointsFromMultiSweeps",
    "MultiScaleFlipAug3D",
    "NuScenesDataset",
    "ObjectNameFilter",
    "ObjectNoise",
    "ObjectRangeFilter",
    "ObjectSample",
    "Pack3DDetInputs",
    "PointShuffle",
    "PointsRangeFilter",
    "RandomFlip3D",
    "RepeatDataset",
    "SeededDataset",
    "Transform",
    "VoxelizePoints",
    "check_dataset",
    "current_epoch",
    "pseudo_collate",
]
