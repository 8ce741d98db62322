"""Which mount a path is on, and what is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.cache.storage.filesystem import ALLOW, is_shared, kind_of, refuse_shared
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.core.errors import CacheError

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw
24 22 0:30 / /home rw,relatime shared:7 - nfs4 server:/home rw,vers=4.2
25 24 0:31 / /home/me/local rw,relatime - tmpfs tmpfs rw
26 22 0:32 / /data rw,relatime - ext4 /dev/vdb rw
27 26 0:33 / /data rw,relatime master:1 - fuse.sshfs me@host:/data rw
28 22 0:34 / /with\040space rw - cifs //server/share rw
29 22 0:35 /export /work rw - overlay overlay rw,lowerdir=/a
30 22 0:36 / /odd - line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/tools.cache", "ext4"),
        ("/home/me/tools.cache", "nfs4"),
        ("/homework/tools.cache", "ext4"),
        ("/home/me/local/deep/tools.cache", "tmpfs"),
        ("/data/tools.cache", "fuse.sshfs"),
        ("/with space/tools.cache", "cifs"),
        ("/work/tools.cache", "overlay"),
        ("/home/me/local/../tools.cache", "nfs4"),
    ],
)
def test_the_deepest_and_latest_mount_counts(path: str, kind: str) -> None:
    """A local disk below a network home is local; a share mounted over a disk is not."""
    assert kind_of(Path(path), MOUNTS) == kind


def test_a_link_is_followed_to_where_the_file_is(tmp_path: Path) -> None:
    """People link their run folders to scratch disks, and their scratch disks to shares."""
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    mounts = f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {share.resolve()} rw - nfs b rw\n"

    assert kind_of(tmp_path / "link" / "new" / "tools.cache", mounts) == "nfs"


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "fuse.sshfs",
        "fuse.glusterfs",
        "ceph",
        "lustre",
        "beegfs",
        "afs",
    ],
)
def test_what_several_machines_share_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's WAL loses writes there, and nothing says so; the error names the ways out."""
    monkeypatch.delenv(ALLOW, raising=False)
    mounts = f"1 0 0:1 / / rw - {kind} server rw\n"
    with pytest.raises(CacheError, match=r"local disk.*snapshot.*Redis") as told:
        refuse_shared(Path("/tools.cache"), mounts)
    assert "\n" not in str(told.value)

    monkeypatch.setenv(ALLOW, "1")
    refuse_shared(Path("/tools.cache"), mounts)


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "virtiofs", "9p", "fuse.fuse-overlayfs"],
)
def test_what_one_kernel_owns_is_not(kind: str) -> None:
    """Containers and virtual machines see their disks through stranger file systems than these."""
    assert not is_shared(kind)
    refuse_shared(Path("/tools.cache"), f"1 0 0:1 / / rw - {kind} x rw\n")


def test_a_system_that_does_not_tell_is_trusted() -> None:
    """No /proc/self/mountinfo, no opinion."""
    assert kind_of(Path("/x"), "") is None
    assert not is_shared(None)


def test_this_machine_tells(tmp_path: Path) -> None:
    """The real file is read and understood, and a cache opens here."""
    if Path("/proc/self/mountinfo").exists():
        assert kind_of(tmp_path)
    SqliteStore(tmp_path / "tools.cache", mode="write").close()
