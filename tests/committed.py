"""The records as they are committed, whatever has been computed here since."""

import io
import subprocess
import tarfile

import pytest

from curlora_lite.replication import records


def unpack(folder):
    """Put the committed `results` below a folder; returns their path. Skips outside git."""
    archive = ["git", "-C", str(records.ROOT), "archive", "HEAD", "results"]
    kept = subprocess.run(archive, capture_output=True)
    if kept.returncode:
        pytest.skip("not a git checkout: which records are the committed ones is not known")
    with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "results"
