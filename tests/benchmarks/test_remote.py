"""Data in a bucket."""

import uuid
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest
from s3server import BUCKET

from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.remote import fetch
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError


@pytest.fixture
def upload(s3_server):
    """Copies a folder or a file into the bucket; gives its address."""

    def copy(path):
        prefix = uuid.uuid4().hex
        server = pyarrow.fs.S3FileSystem(endpoint_override=s3_server.endpoint, scheme="http")
        pyarrow.fs.copy_files(
            str(path), f"{BUCKET}/{prefix}/{path.name}", pyarrow.fs.LocalFileSystem(), server
        )
        return s3_server.address(f"{prefix}/{path.name}")

    return copy


def digests(dataset, data_dir):
    config = BenchmarkConfig(dataset=dataset, tasks=[[0, 1], [2, 3]], data_dir=str(data_dir))
    return [task.digest for task in load_stream(config)]


def test_a_folder_in_a_bucket_is_fetched_once(upload, idx_dataset, tmp_path):
    folder = Path(idx_dataset.removeprefix("idx:"))
    dataset = f"idx:{upload(folder)}"
    assert digests(dataset, tmp_path) == digests(idx_dataset, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files) == len(list(folder.iterdir()))
    assert digests(dataset, tmp_path) == digests(idx_dataset, tmp_path)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_what_changes_in_the_bucket_is_fetched_anew(upload, idx_dataset, tmp_path, s3_server):
    dataset = f"idx:{upload(Path(idx_dataset.removeprefix('idx:')))}"
    digests(dataset, tmp_path)
    server = pyarrow.fs.S3FileSystem(endpoint_override=s3_server.endpoint, scheme="http")
    path = dataset.removeprefix("idx:s3://").partition("?")[0]
    (labels,) = (
        info.path
        for info in server.get_file_info(pyarrow.fs.FileSelector(path))
        if "train-labels" in info.path
    )
    with server.open_output_stream(labels) as file:
        file.write(b"torn")
    with pytest.raises(UserError, match="train-labels"):
        digests(dataset, tmp_path)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("nothing/here", "there is nothing; check the bucket and the prefix"),
        ("nothing of any/écriture", "there is nothing; check the bucket and the prefix"),
    ],
)
def test_what_is_not_there(s3_server, tmp_path, prefix, said):
    with pytest.raises(UserError, match=f"benchmark.dataset.*{prefix}.*{said}"):
        digests(f"idx:{s3_server.address(prefix)}", tmp_path)


def test_a_server_that_refuses(s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=r"cannot be fetched .*credentials come from AWS_ACCESS"):
        digests(f"idx:{s3_server.address('x')}", tmp_path)


@pytest.mark.parametrize(
    "path", ["s3://key:secret@bucket/x", "http://host/x", "s3://bucket?token=x"]
)
def test_an_address_that_is_none_or_holds_credentials(path, tmp_path):
    with pytest.raises(UserError, match=r"^benchmark.dataset = '(s3|http)://\.\.\.'") as caught:
        digests(f"folder:{path}", tmp_path)
    assert "secret" not in str(caught.value).lower().replace("aws_secret_access_key", "")


def test_folders_within_folders_and_single_files(upload, tmp_path):
    tree = tmp_path / "tree"
    for name in ("train/cat/1.png", "train/dog/2.png", "list.csv"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    there = fetch(upload(tree), into=tmp_path)
    assert {str(p.relative_to(there)): p.read_text() for p in there.rglob("*.*")} == {
        name: name for name in ("train/cat/1.png", "train/dog/2.png", "list.csv")
    }
    assert fetch(upload(tree / "list.csv"), into=tmp_path).read_text() == "list.csv"


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, monkeypatch):
    """The server of these tests takes none; others may."""
    folder = pyarrow.fs.FileInfo("bucket/x", pyarrow.fs.FileType.Directory)
    file = pyarrow.fs.FileInfo("bucket/x/../../evil", pyarrow.fs.FileType.File, size=1)
    bucket = SimpleNamespace(get_file_info=lambda asked: folder if asked == "bucket/x" else [file])
    opened = SimpleNamespace(from_uri=lambda _: (bucket, "bucket/x"))
    monkeypatch.setattr(pyarrow.fs, "FileSystem", opened)
    with pytest.raises(UserError, match=r"\.\./evil would be written outside"):
        fetch("s3://bucket/x", into=tmp_path)
    assert list(tmp_path.iterdir()) == []
