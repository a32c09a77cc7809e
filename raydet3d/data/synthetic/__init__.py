"""A generated town, scanned by a simulated LiDAR and written in KITTI's or in nuScenes' own layout."""

from raydet3d.data.synthetic.nuscenes_town_dataset import NuScenesTownDataset
from raydet3d.data.synthetic.nuscenes_town_settings import NuScenesTownSettings
from raydet3d.data.synthetic.town_dataset import TownDataset
from raydet3d.data.synthetic.town_settings import TownSettings

__all__ = ["NuScenesTownDataset", "NuScenesTownSettings", "TownDataset", "TownSettings"]
