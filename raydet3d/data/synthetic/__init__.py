"""A generated town, scanned by a simulated LiDAR and written in KITTI's own layout: the demo's and the tests' data."""

from raydet3d.data.synthetic.town_dataset import TownDataset
from raydet3d.data.synthetic.town_settings import TownSettings

__all__ = ["TownDataset", "TownSettings"]
