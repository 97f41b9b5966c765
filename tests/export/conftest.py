"""What the export tests share."""

import hashlib

import pytest


@pytest.fixture(scope="session")
def file_digests():
    """Every file below a directory by its relative path, with a digest of its bytes."""

    def digests(directory):
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.rglob("*")
            if path.is_file()
        }

    return digests
