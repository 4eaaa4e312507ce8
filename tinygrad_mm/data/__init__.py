"""Data: files into arrays, arrays into batches.

Floor 7. Everything here gives plain NumPy arrays; a network turns them into Tensors when it is given them.
"""

from tinygrad_mm.data import augment
from tinygrad_mm.data.idx import read_idx, read_idx_folder
from tinygrad_mm.data.loader import DataLoader
from tinygrad_mm.data.samplers import StratifiedSampler, SubsetSampler, WeightedSampler
from tinygrad_mm.data.splitting import train_test_split
from tinygrad_mm.data.tables import read_csv, read_npz

__all__ = [
    "DataLoader",
    "StratifiedSampler",
    "SubsetSampler",
    "WeightedSampler",
    "augment",
    "read_csv",
    "read_idx",
    "read_idx_folder",
    "read_npz",
    "train_test_split",
]
