"""Every test of the store runs on a folder and on a real S3 server, unless it says otherwise."""

import uuid

import pytest

from zoo_ray.address import parse_address
from zoo_ray.store import Store
from zoo_ray.store.opening import open_files


@pytest.fixture(params=["folder", "s3"])
def address(request, tmp_path):
    """Of a store that does not exist yet."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return request.getfixturevalue("s3_server").address(uuid.uuid4().hex)


@pytest.fixture
def s3_address(s3_server):
    return s3_server.address(uuid.uuid4().hex)


@pytest.fixture
def files(address):
    return open_files(parse_address(address), patience_s=10)


@pytest.fixture
def store(address):
    return Store(address, patience_s=10)


@pytest.fixture
def folder_store(tmp_path):
    return Store(str(tmp_path / "store"))
