from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from peili.containerd.backup import DamagedRecord, parse_record
from peili.containerd.cleanup import cleanup
from peili.containerd.configure import configure
from peili.containerd.configure_settings import ConfigureSettings, InvalidConfigureSetting, directory_name
from peili.containerd.hosts import parse_hosts

OURS = "http://127.0.0.1:5000"


def run(root: Path, *registries: str) -> None:
    assert configure(ConfigureSettings(root, (OURS,), registries)).problems == ()


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [root, *sorted(root.rglob("*"))]
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with everything that a node may have, with old times and odd modes."""
    path = tmp_path / "certs.d"
    files = {
        "docker.io/hosts.toml": b'\xef\xbb\xbf# odd\r\nhost."https://a".ca = "x"',
        "quay.io/hosts.toml": b'# quay\r\nhost."https://a".ca = "x"',
        "ghcr.io/hosts.toml": b'[host."http://127.0.0.1:5000"]\n  ca = "x"  # ours already\n',
        "certs:5000/ca.crt": b"certificate",
        "empty.example/.keep": b"",
        "_default/hosts.toml": b"",
    }
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        file.chmod(0o604)
        os.utime(file, ns=(1, 10**18 + len(name)))
        os.utime(file.parent, ns=(1, 10**18))
    (path / "empty.example/.keep").unlink()
    os.utime(path, ns=(1, 10**18))
    path.chmod(0o711)
    return path


@pytest.mark.parametrize("registries", [(), ("https://quay.io", "https://new.example", "http://certs:5000")])
def test_everything_is_as_it_was(root: Path, registries: tuple[str, ...]) -> None:
    before = tree(root)
    configure(ConfigureSettings(root, (OURS,), registries, basic_auth="a:b"))
    assert tree(root) != before
    report = cleanup(root)
    assert report.problems == ()
    assert report.kept == ()
    assert tree(root) == before
    assert cleanup(root).restored == cleanup(root).removed == ()
    assert tree(root) == before


def test_a_directory_that_was_never_configured(root: Path) -> None:
    before = tree(root)
    assert cleanup(root).problems == ()
    assert tree(root) == before


def test_edited_files_lose_only_our_hosts_and_it_is_said(root: Path) -> None:
    run(root, "https://quay.io", "https://new.example")
    for name in ["quay.io", "new.example"]:
        path = root / name / "hosts.toml"
        path.write_text(path.read_text() + '\n[host."https://mine"]\n')
    report = cleanup(root)
    assert report.kept == (root / "new.example/hosts.toml", root / "quay.io/hosts.toml")
    assert list(parse_hosts((root / "quay.io/hosts.toml").read_bytes()).hosts) == ["https://a", "https://mine"]
    assert list(parse_hosts((root / "new.example/hosts.toml").read_bytes()).hosts) == ["https://mine"]
    assert "# quay" in (root / "quay.io/hosts.toml").read_text()
    assert any("edited by hand" in note for note in report.notes)
    assert not (root / "_backup").exists()
    assert cleanup(root).kept == ()


def test_a_private_file_that_was_edited_gets_its_old_mode_back(root: Path) -> None:
    configure(ConfigureSettings(root, (OURS,), ("https://quay.io",), basic_auth="a:b"))
    path = root / "quay.io/hosts.toml"
    path.write_text(path.read_text() + "# mine\n")
    cleanup(root)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert "Authorization" not in path.read_text()


def test_a_file_removed_by_hand_stays_removed_and_it_is_said(root: Path) -> None:
    run(root, "https://quay.io")
    (root / "quay.io/hosts.toml").unlink()
    report = cleanup(root)
    assert not (root / "quay.io/hosts.toml").exists()
    assert any("removed by hand" in note for note in report.notes)


def test_something_put_into_a_directory_of_ours_stays(root: Path) -> None:
    run(root, "https://new.example")
    (root / "new.example/ca.crt").write_text("mine")
    report = cleanup(root)
    assert [path.name for path in (root / "new.example").iterdir()] == ["ca.crt"]
    assert any("not empty" in note for note in report.notes)


def test_a_file_broken_by_hand_keeps_the_backup_until_it_is_repaired(root: Path) -> None:
    run(root, "https://quay.io")
    path = root / "quay.io/hosts.toml"
    content = path.read_bytes()
    path.write_bytes(content + b"[[")
    report = cleanup(root)
    assert [problem.path for problem in report.problems] == [path]
    assert (root / "_backup/quay.io/hosts.toml").exists()
    path.write_bytes(content)
    assert cleanup(root).restored == (path,)


def test_hosts_of_ours_go_even_without_a_record(root: Path) -> None:
    run(root, "https://quay.io", "https://new.example")
    (root / "_backup").rename(root.parent / "elsewhere")
    cleanup(root)
    assert list(parse_hosts((root / "quay.io/hosts.toml").read_bytes()).hosts) == ["https://a"]
    assert not (root / "new.example").exists()


def test_a_missing_directory_has_nothing_to_clean(tmp_path: Path) -> None:
    assert cleanup(tmp_path / "none").problems == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 2}',
        b'{"format": 1, "files": {"../x": {"sha256": "", "replaced": false, "base": null}}}',
        b'{"format": 1, "files": {}, "created": ["/etc"], "above": [], "targets": [], "modified": null}',
        b'{"format": 1, "files": {}, "created": [], "above": [], "targets": [1], "modified": null}',
        b'{"format": 1, "files": {}, "created": [], "above": [], "targets": [], "modified": "x"}',
        b"[" * 100_000,
    ],
)
def test_a_record_that_is_none(content: bytes) -> None:
    with pytest.raises(DamagedRecord):
        parse_record(content)


@pytest.mark.parametrize(
    ("targets", "registries", "words"),
    [
        ((), (), "mirror targets: 0"),
        (("127.0.0.1:5000",), (), "mirror target '127.0.0.1:5000' is not a URL"),
        (("ftp://a",), (), "not a URL"),
        (("http://u:p@a",), (), "no user or password"),
        (("http://a?b",), (), "a query"),
        (("http://a:99999",), (), "port"),
        (("http://[",), (), "not a URL"),
        (("http://a\nb",), (), "not a URL"),
        ((OURS,), ("ftp://r",), "mirrored registry 'ftp://r': not a registry's URL"),
        ((OURS,), ("https://u:p@r",), "mirrored registry 'r': no user or password"),
        ((OURS,), ("https://docker.io/library",), "without a path"),
        ((OURS,), ("https://a_b/../c",), "without a path"),
        ((OURS,), ("https://..",), "not a registry"),
        ((OURS,), ("https://r", "http://r"), "named twice"),
        ((OURS,), ("r", "http://r"), "named twice"),
    ],
)
def test_wrong_settings_name_themselves(
    tmp_path: Path, targets: tuple[str, ...], registries: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidConfigureSetting, match=words):
        configure(ConfigureSettings(tmp_path, targets, registries))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("secret", ["", "user", ":password", "a:b\n", "a:\udcff"])
def test_wrong_credentials_are_not_repeated(tmp_path: Path, secret: str) -> None:
    with pytest.raises(InvalidConfigureSetting, match="user:password"):
        configure(ConfigureSettings(tmp_path, (OURS,), basic_auth=secret))


def test_credentials_are_in_no_repr(tmp_path: Path) -> None:
    assert "secret" not in repr(ConfigureSettings(tmp_path, (OURS,), basic_auth="user:secret"))


def test_directory_names_in_the_order_of_containerd() -> None:
    assert directory_name("r:5", ["r:5", "r_5_"]) == "r_5_"
    assert directory_name("r:5", ["r:5"]) == "r:5"
    assert directory_name("r:5", ["r"]) == "r:5"
    assert directory_name("[::1]:5", ["[::1]_5_"]) == "[::1]_5_"
    assert directory_name("r", []) == "r"
