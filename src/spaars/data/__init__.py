"""Datasets and their sources, replay, recorded behaviour policies."""

from spaars.data.behaviour import BehaviourPolicy
from spaars.data.dataset import Dataset, check_against_env, content_sha256
from spaars.data.inspect import describe, problems
from spaars.data.recorded import recorded_dataset
from spaars.data.replay import Batch, Ring
from spaars.data.sources import load_dataset, load_file, save_npz

__all__ = [
    "Batch",
    "BehaviourPolicy",
    "Dataset",
    "Ring",
    "check_against_env",
    "content_sha256",
    "describe",
    "load_dataset",
    "load_file",
    "problems",
    "recorded_dataset",
    "save_npz",
]
