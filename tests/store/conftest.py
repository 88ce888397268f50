"""Every test of the store runs on a folder and on a real S3 server, unless it says otherwise."""

import uuid

import pytest
from s3server import S3Server

from zoo_ray.address import parse_address
from zoo_ray.store import Store
from zoo_ray.store.opening import open_files


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Started when the first test asks for it; its credentials are in the environment."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.kill()


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
