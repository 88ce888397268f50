import pytest

from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.store.payloads import table_to_bytes

FIT = FitTime("one", 2, 1, 5.0, 6.5, True, "digest", "published")


def test_sessions_follow_one_another_and_each_is_written_anew(folder_store):
    store, folder = folder_store, "runs/run"
    assert store.read_timeline(folder) == []
    store.write_timeline(folder, [])
    assert store.read_timeline(folder) == []
    store.write_timeline(folder, [FIT])
    later = [FIT, FIT._replace(begin=7.0, end=8.0, certain=False, ending="left")]
    store.write_timeline(folder, later)
    other = FIT._replace(session="two", workers=1, worker=0)
    store.write_timeline(folder, [other])
    assert store.read_timeline(folder) == [*later, other]


@pytest.mark.parametrize(
    "strange",
    [
        {"worker": 2},
        {"worker": -1},
        {"end": 4.0},
        {"end": float("nan")},
        {"end": float("inf")},
        {"begin": "now"},
        {"ending": "well"},
        {"certain": 1},
        {"session": None},
    ],
)
def test_a_strange_table_is_told_and_written_anew(folder_store, caplog, strange):
    store, path = folder_store, "runs/run/timeline.parquet"
    row = FIT._replace(**strange)._asdict()
    store.files.replace(path, table_to_bytes({key: [value] for key, value in row.items()}))
    with pytest.raises(UserError, match=r"timeline\.parquet: row 1 is no time of a fit; remove it"):
        store.read_timeline("runs/run")
    store.write_timeline("runs/run", [FIT])
    assert "written anew" in caplog.text
    assert store.read_timeline("runs/run") == [FIT]


@pytest.mark.parametrize("payload", [b"", b"PAR1", table_to_bytes({"episode": [1]})])
def test_what_is_no_table_is_told(folder_store, payload):
    folder_store.files.replace("runs/run/timeline.parquet", payload)
    with pytest.raises(UserError, match=r"timeline\.parquet: not a t"):
        folder_store.read_timeline("runs/run")
