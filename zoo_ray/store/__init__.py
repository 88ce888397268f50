"""Members, runs and searches, durable, in a folder or in a bucket."""

from zoo_ray.store.files import KINDS
from zoo_ray.store.records import RunRecord, SearchRecord, TaskRecord, check_name, zoo_name
from zoo_ray.store.store import (
    CorruptMember,
    Store,
    StoredPredictions,
    comparison_folder,
    run_folder,
    search_folder,
)

__all__ = [
    "KINDS",
    "CorruptMember",
    "RunRecord",
    "SearchRecord",
    "Store",
    "StoredPredictions",
    "TaskRecord",
    "check_name",
    "comparison_folder",
    "run_folder",
    "search_folder",
    "zoo_name",
]
