"""Members and runs, durable, in a folder or in a bucket."""

from zoo_ray.store.records import RunRecord, TaskRecord, check_name
from zoo_ray.store.store import CorruptMember, Store, StoredPredictions

__all__ = ["CorruptMember", "RunRecord", "Store", "StoredPredictions", "TaskRecord", "check_name"]
