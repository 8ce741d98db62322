"""Is this path on a file system that several machines share? SQLite's WAL must not be there.

Writers of one WAL find one another in shared memory, which ends at the machine: two hosts on one
network file system overwrite each other's pages, and no checksum of theirs sees it. Linux tells what
is mounted where in /proc/self/mountinfo. Other systems are not asked: there every path counts as
local, and keeping the file on a local disk is up to the person.

Not refused, because one kernel owns what they show: overlay, tmpfs, virtiofs, 9p and the other ways
in which containers and virtual machines see their host's folders.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cacherl.core.errors import CacheError

ALLOW = "CACHERL_ALLOW_NETWORK_FS"
"""Set to 1 where only one machine ever opens the file: nothing is refused then."""

_SHARED = frozenset(
    [
        "nfs",
        "nfs3",
        "nfs4",
        "cifs",
        "smb2",
        "smb3",
        "smbfs",
        "ncpfs",
        "ncp",
        "coda",
        "afs",
        "openafs",
        "kafs",
        "ceph",
        "lustre",
        "glusterfs",
        "beegfs",
        "beegfs_nodev",
        "fhgfs",
        "gpfs",
        "pvfs2",
        "orangefs",
        "panfs",
        "gfs",
        "gfs2",
        "ocfs2",
        "davfs",
        "9p-nfs",
        "acfs",
        "wekafs",
        "quobyte",
        "moosefs",
        "juicefs",
    ]
)
_SHARED_FUSE = frozenset(
    [
        "sshfs",
        "glusterfs",
        "ceph",
        "ceph-fuse",
        "cephfs",
        "s3fs",
        "gcsfuse",
        "rclone",
        "goofys",
        "juicefs",
        "mount-s3",
        "blobfuse",
        "blobfuse2",
        "smbnetfs",
        "davfs",
        "mfs",
        "moosefs",
        "beegfs",
        "curlftpfs",
        "quobyte",
        "s3ql",
        "lizardfs",
        "seaweedfs",
    ]
)
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def kind_of(path: Path, mounts: str | None = None) -> str | None:
    """Return the type of the file system that a path is on or would be created on.

    Args:
        path: need not exist.
        mounts: the text of /proc/self/mountinfo; read where it is not given.

    Returns:
        Such as `ext4`, `nfs4`, `fuse.sshfs`; None where this system does not tell.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    place = path.resolve().parts
    longest, kind = 0, None
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        columns = before.split(" ")
        if not dash or len(columns) < 5:
            continue
        point = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), columns[4])).parts
        # A later mount on the same point hides the earlier one, so equal lengths replace too.
        if len(point) >= longest and place[: len(point)] == point:
            longest, kind = len(point), after.split(" ")[0]
    return kind


def is_shared(kind: str | None) -> bool:
    """Say whether several machines may write to a file system of this type at once."""
    if kind is None:
        return False
    kind = kind.lower()
    if kind.startswith("fuse."):
        return kind.removeprefix("fuse.") in _SHARED_FUSE
    return kind in _SHARED


def refuse_shared(path: Path, mounts: str | None = None) -> None:
    """Pass a path on a local file system, or on any if `CACHERL_ALLOW_NETWORK_FS=1`.

    Raises:
        CacheError: it is on a network file system.
    """
    kind = kind_of(path, mounts)
    if is_shared(kind) and os.environ.get(ALLOW) != "1":
        raise CacheError(
            f"{path}: on a network file system ({kind}), where SQLite loses writes. Record to a local "
            "disk; for several hosts, share a frozen snapshot (`cacherl cache freeze`) or a Redis store. "
            f"{ALLOW}=1 opens it all the same, where only one machine ever does."
        )
