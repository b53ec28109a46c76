from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from peili.containerd.configure import InvalidConfigureSetting, cleanup, configure
from peili.containerd.configure_settings import ConfigureSettings
from peili.containerd.files import locked, write_atomic
from peili.containerd.hosts import HostsFile, parse_hosts
from peili.containerd.reports import ConfigureReport

OURS = "http://127.0.0.1:5000"
OTHER = "http://10.0.0.1:5000"
CACHE = "https://cache.example"
Tree = dict[str, tuple[int, int, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "certs.d"
    path.mkdir()
    os.utime(path, ns=(1, 10**18))
    return path


def run(root: Path, *registries: str, targets: tuple[str, ...] = (OURS,), **settings: object) -> ConfigureReport:
    return configure(ConfigureSettings(root, targets, registries, **settings))  # type: ignore[arg-type]


def good(report: ConfigureReport) -> ConfigureReport:
    assert report.problems == ()
    return report


def put(root: Path, name: str, text: str, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.utime(path, ns=(1, 10**18 + len(text)))
    os.utime(path.parent, ns=(1, 10**18))
    os.utime(root, ns=(1, 10**18))
    return path


def read(root: Path, name: str) -> HostsFile:
    return parse_hosts((root / name / "hosts.toml").read_bytes())


def hosts(root: Path, name: str) -> list[str]:
    return list(read(root, name).hosts)


def tree(root: Path) -> Tree:
    """Everything below: mode, time, content."""
    found: Tree = {}
    for path in [*sorted(root.rglob("*")), root]:
        status = path.lstat()
        what = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else "directory"
        found[str(path.relative_to(root))] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, what)
    return found


def test_every_registry_in_an_empty_directory(root: Path) -> None:
    report = good(run(root))
    assert report.changed == (root / "_default/hosts.toml",)
    file = read(root, "_default")
    assert "server" not in file.data
    assert file.hosts == {OURS: {"capabilities": ["pull", "resolve"], "dial_timeout": "200ms"}}
    assert stat.S_IMODE((root / "_default/hosts.toml").stat().st_mode) == 0o644


def test_registries_by_name_get_their_server(root: Path) -> None:
    good(run(root, "https://docker.io", "https://registry.k8s.io:443", "http://registry:5000/"))
    assert read(root, "docker.io").data["server"] == "https://registry-1.docker.io"
    assert read(root, "registry.k8s.io:443").data["server"] == "https://registry.k8s.io:443"
    assert read(root, "registry:5000").data["server"] == "http://registry:5000"
    assert not (root / "_default").exists()


def test_dockers_hub_is_one_registry_by_all_its_names_and_a_scheme_may_be_left_out(root: Path) -> None:
    good(run(root, "https://index.docker.io", "docker.io", "https://registry-1.docker.io", "ghcr.io"))
    assert sorted(path.name for path in root.iterdir() if path.name != "_backup") == ["docker.io", "ghcr.io"]
    assert read(root, "docker.io").data["server"] == "https://registry-1.docker.io"
    assert read(root, "ghcr.io").data["server"] == "https://ghcr.io"


@pytest.mark.parametrize("existing", ["registry_5000_", "registry:5000"])
def test_the_directory_that_containerd_looks_at_is_written(root: Path, existing: str) -> None:
    (root / existing).mkdir()
    assert good(run(root, "http://registry:5000")).changed == (root / existing / "hosts.toml",)


def test_everything_that_hides_the_default_is_written_too(root: Path) -> None:
    put(root, "docker.io/hosts.toml", f'server = "https://d"\n[host."{CACHE}"]\nca = "x"\n')
    (root / "empty.example").mkdir()
    put(root, "lost+found/hosts.toml", "")
    put(root, "a-file", "")
    good(run(root))
    assert hosts(root, "docker.io") == [OURS, CACHE]
    assert read(root, "docker.io").data["server"] == "https://d"
    assert hosts(root, "empty.example") == [OURS]
    assert (root / "lost+found/hosts.toml").read_text() == ""


def test_a_second_run_changes_nothing_at_all(root: Path) -> None:
    put(root, "docker.io/hosts.toml", f'[host."{CACHE}"]\n', 0o640)
    good(run(root, basic_auth="a:b"))
    before = tree(root)
    report = good(run(root, basic_auth="a:b"))
    assert report.changed == ()
    assert len(report.unchanged) == 2
    assert tree(root) == before


def test_other_targets_replace_only_our_hosts(root: Path) -> None:
    put(root, "docker.io/hosts.toml", f'[host."{CACHE}"]\n')
    good(run(root, targets=(OURS, "https://further.example")))
    assert hosts(root, "docker.io") == [OURS, "https://further.example", CACHE]
    good(run(root, targets=(OTHER,)))
    assert hosts(root, "docker.io") == [OTHER, CACHE]


def test_edits_by_hand_survive_every_later_run(root: Path) -> None:
    path = put(root, "docker.io/hosts.toml", f'[host."{CACHE}"]\n')
    good(run(root))
    path.write_text(path.read_text() + '# mine\n[host."https://mine"]\n')
    for targets in [(OURS,), (OURS,), (OTHER,), (OURS,)]:
        good(run(root, targets=targets))
        assert hosts(root, "docker.io") == [targets[0], CACHE, "https://mine"]
        assert "# mine\n" in path.read_text()
    before = tree(root)
    good(run(root))
    assert tree(root) == before


def test_a_file_made_by_hand_between_two_runs_is_kept(root: Path) -> None:
    good(run(root))
    put(root, "new.example/hosts.toml", f'# new\n[host."{OURS}"]\nca = "x"\n')
    good(run(root))
    assert read(root, "new.example").hosts[OURS]["ca"] == "x"
    cleanup(root)
    assert (root / "new.example/hosts.toml").read_text() == f'# new\n[host."{OURS}"]\nca = "x"\n'


def test_a_new_directory_takes_over_what_the_default_one_said_for_it(root: Path) -> None:
    put(root, "_default/hosts.toml", f'[host."{CACHE}"]\nca = "c.crt"\n')
    good(run(root, "https://docker.io"))
    assert read(root, "docker.io").hosts[CACHE] == {"ca": "../_default/c.crt"}
    assert hosts(root, "docker.io") == [OURS, CACHE]
    assert (root / "_default/hosts.toml").read_text() == f'[host."{CACHE}"]\nca = "c.crt"\n'
    assert good(run(root, "https://docker.io")).changed == ()


def test_a_broken_default_is_not_taken_over(root: Path) -> None:
    put(root, "_default/hosts.toml", "[[")
    report = good(run(root, "https://docker.io", "https://quay.io"))
    assert hosts(root, "docker.io") == [OURS]
    assert len(report.notes) == 1


def test_certificates_of_docker_s_kind_still_count(root: Path) -> None:
    put(root, "registry:5000/ca.crt", "")
    put(root, "registry:5000/me.cert", "")
    put(root, "registry:5000/me.key", "")
    put(root, "both/ca.crt", "")
    put(root, "both/hosts.toml", f'[host."{CACHE}"]\n')
    good(run(root))
    assert read(root, "registry:5000").data["ca"] == ["ca.crt"]
    assert read(root, "registry:5000").data["client"] == [["me.cert", "me.key"]]
    assert "ca" not in read(root, "both").data
    assert good(run(root)).changed == ()


def test_docker_certificates_of_the_default_directory_are_taken_over(root: Path) -> None:
    put(root, "_default/ca.crt", "")
    good(run(root, "https://quay.io"))
    assert read(root, "quay.io").data["ca"] == ["../_default/ca.crt"]


def test_credentials_make_the_files_private_and_go_to_this_node_only(root: Path) -> None:
    path = put(root, "docker.io/hosts.toml", "", 0o640)
    good(run(root, targets=(OURS, "http://127.0.0.1:5001", CACHE), basic_auth="user:pass"))
    file = read(root, "docker.io")
    assert file.hosts[OURS]["header"] == {"Authorization": "Basic dXNlcjpwYXNz"}
    assert file.hosts["http://127.0.0.1:5001"]["header"] == {"Authorization": "Basic dXNlcjpwYXNz"}
    assert "header" not in file.hosts[CACHE]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    good(run(root))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "Authorization" not in path.read_text()
    assert stat.S_IMODE((root / "_default/hosts.toml").stat().st_mode) == 0o644


def test_replacing_what_is_there(root: Path) -> None:
    put(root, "docker.io/hosts.toml", f'server = "https://d"\n[host."{CACHE}"]\n')
    before = tree(root)
    good(run(root, prepend_existing=False))
    assert hosts(root, "docker.io") == [OURS]
    assert read(root, "docker.io").data["server"] == "https://d"
    good(run(root, prepend_existing=True))
    assert hosts(root, "docker.io") == [OURS, CACHE]
    good(run(root, prepend_existing=False))
    cleanup(root)
    assert tree(root) == before


def test_a_broken_file_is_left_alone_and_named_and_the_others_are_written(root: Path) -> None:
    put(root, "broken/hosts.toml", 'server = "x"\n[host."y"\n')
    put(root, "docker.io/hosts.toml", f'[host."{CACHE}"]\n')
    report = run(root)
    assert [(problem.path, problem.line) for problem in report.problems] == [(root / "broken/hosts.toml", 2)]
    assert "repair it" in str(report.problems[0])
    assert (root / "broken/hosts.toml").read_text() == 'server = "x"\n[host."y"\n'
    assert hosts(root, "docker.io") == [OURS, CACHE]
    assert hosts(root, "_default") == [OURS]


def test_the_original_is_kept_once(root: Path) -> None:
    put(root, "docker.io/hosts.toml", "# first\n", 0o640)
    put(root, "docker.io/ca.crt", "secret", 0o600)
    good(run(root))
    put(root, "docker.io/hosts.toml", "# second\n")
    good(run(root, targets=(OTHER,)))
    assert (root / "_backup/docker.io/hosts.toml").read_text() == "# first\n"
    assert stat.S_IMODE((root / "_backup/docker.io/ca.crt").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "_backup").stat().st_mode) == 0o700


def test_another_program_s_backup_is_not_touched(root: Path) -> None:
    put(root, "_backup/hosts.toml", "theirs")
    before = tree(root)
    good(run(root))
    assert (root / "_backup_peili/peili.json").exists()
    assert not (root / "_backup_peili/_backup").exists()
    cleanup(root)
    assert tree(root) == before


def test_a_lost_backup_does_not_make_our_hosts_the_original(root: Path) -> None:
    put(root, "docker.io/hosts.toml", f'[host."{CACHE}"]\n')
    good(run(root))
    for name in ["peili.json", "docker.io/hosts.toml"]:
        (root / "_backup" / name).unlink()
    (root / "_backup/docker.io").rmdir()
    (root / "_backup").rmdir()
    good(run(root, targets=(OTHER,)))
    assert hosts(root, "docker.io") == [OTHER, CACHE]
    cleanup(root)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["docker.io", "docker.io/hosts.toml"]
    assert (root / "docker.io/hosts.toml").read_text() == f'[host."{CACHE}"]\n'


def test_a_damaged_record_stops_everything(root: Path) -> None:
    good(run(root))
    (root / "_backup/peili.json").write_text("{}")
    before = tree(root)
    assert "damaged" in str(run(root, targets=(OTHER,)).problems[0])
    assert "damaged" in str(cleanup(root).problems[0])
    assert tree(root) == before


def test_a_registry_that_is_not_named_any_more_is_put_back(root: Path) -> None:
    put(root, "quay.io/hosts.toml", f'[host."{CACHE}"]\n')
    good(run(root, "https://docker.io", "https://quay.io"))
    report = good(run(root, "https://ghcr.io"))
    assert not (root / "docker.io").exists()
    assert hosts(root, "quay.io") == [CACHE]
    assert root / "quay.io/hosts.toml" in report.undone
    assert hosts(root, "ghcr.io") == [OURS]


def test_from_names_to_all_and_back(root: Path) -> None:
    before = tree(root)
    good(run(root, "https://docker.io", "https://quay.io"))
    (root / "quay.io/hosts.toml").write_text((root / "quay.io/hosts.toml").read_text() + f'[host."{CACHE}"]\n')
    good(run(root))
    assert not (root / "docker.io").exists()
    assert hosts(root, "quay.io") == [OURS, CACHE]
    assert hosts(root, "_default") == [OURS]
    assert good(run(root)).changed == ()
    (root / "quay.io/hosts.toml").unlink()
    (root / "quay.io").rmdir()
    good(run(root, "https://docker.io"))
    assert not (root / "_default").exists()
    cleanup(root)
    assert tree(root) == before


def test_a_missing_directory_is_made_and_removed_again(tmp_path: Path) -> None:
    root = tmp_path / "etc/containerd/certs.d"
    good(run(root))
    assert hosts(root, "_default") == [OURS]
    report = cleanup(root)
    assert report.problems == ()
    assert list(tmp_path.iterdir()) == []
    assert cleanup(root).removed == ()


def test_links_inside_are_followed_and_come_back_as_links(root: Path) -> None:
    put(root, "registry-1.docker.io/hosts.toml", f'[host."{CACHE}"]\n')
    (root / "docker.io").symlink_to("registry-1.docker.io")
    put(root, "shared/hosts.toml", "# shared\n")
    (root / "quay.io").mkdir()
    (root / "quay.io/hosts.toml").symlink_to("../shared/hosts.toml")
    os.utime(root / "quay.io", ns=(1, 10**18))
    os.utime(root, ns=(1, 10**18))
    before = tree(root)
    good(run(root, "https://docker.io", "https://quay.io"))
    assert (root / "docker.io").is_symlink()
    assert hosts(root, "registry-1.docker.io") == [OURS, CACHE]
    assert not (root / "quay.io/hosts.toml").is_symlink()
    assert (root / "shared/hosts.toml").read_text() == "# shared\n"
    assert good(run(root, "https://docker.io", "https://quay.io")).changed == ()
    cleanup(root)
    after = tree(root)
    after["quay.io/hosts.toml"] = before["quay.io/hosts.toml"]  # a link's own time is not kept
    assert after == before


def test_links_out_of_the_directory_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "hosts.toml").write_text("# outside\n")
    (root / "docker.io").symlink_to(outside)
    (root / "quay.io").mkdir()
    (root / "quay.io/hosts.toml").symlink_to(outside / "hosts.toml")
    (root / "loop").symlink_to("loop")
    report = run(root)
    assert [problem.path for problem in report.problems] == [root / "docker.io", root / "quay.io/hosts.toml"]
    assert (outside / "hosts.toml").read_text() == "# outside\n"
    assert sorted(outside.iterdir()) == [outside / "hosts.toml"]
    assert hosts(root, "_default") == [OURS]


def test_what_is_no_regular_file_does_not_hang(root: Path) -> None:
    (root / "docker.io").mkdir()
    os.mkfifo(root / "docker.io/hosts.toml")
    report = run(root)
    assert "no regular file" in str(report.problems[0])


def test_a_read_only_place_is_a_problem_with_advice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(root / "x"))

    monkeypatch.setattr("peili.containerd.files.tempfile.mkstemp", refuse)
    put(root, "docker.io/hosts.toml", "# before\n")
    before = tree(root)
    report = run(root)
    assert "mount it writable" in str(report.problems[0])
    assert report.changed == ()
    assert {**tree(root), ".": before["."]} == before  # only the directory's own time


def test_one_directory_that_cannot_be_written_does_not_stop_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "docker.io/hosts.toml", "# before\n")
    good(run(root))

    def refuse(path: Path, content: bytes, mode: int) -> None:
        if path.parent.name == "docker.io":
            raise PermissionError(13, "Permission denied", str(path))
        write_atomic(path, content, mode)

    monkeypatch.setattr("peili.containerd.configure.write_atomic", refuse)
    report = run(root, targets=(OTHER,))
    assert [problem.path.parent.name for problem in report.problems] == ["docker.io"]
    assert report.changed == (root / "_default/hosts.toml",)
    monkeypatch.undo()
    # The record is ahead of that file, which is still ours as it is.
    good(run(root, targets=(OTHER,)))
    monkeypatch.setattr("peili.containerd.configure.write_atomic", refuse)
    assert run(root).problems
    assert hosts(root, "docker.io") == [OTHER]
    assert cleanup(root).kept == ()
    assert (root / "docker.io/hosts.toml").read_text() == "# before\n"


def test_a_path_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "certs.d").write_text("")
    assert run(tmp_path / "certs.d").problems
    (tmp_path / "root").mkdir()
    (tmp_path / "root/docker.io").write_text("")
    assert "no directory" in str(run(tmp_path / "root", "https://docker.io").problems[0])


def test_what_a_killed_run_left_is_removed(root: Path) -> None:
    put(root, ".peili-abc/x", "")
    put(root, "docker.io/.peili-xyz", "")
    good(run(root))
    assert not (root / ".peili-abc").exists()
    assert not (root / "docker.io/.peili-xyz").exists()


def test_two_runs_at_once(root: Path) -> None:
    with locked(root):
        assert "another" in str(run(root).problems[0])
        assert "another" in str(cleanup(root).problems[0])


def test_an_ipv6_target_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigureSetting, match=r"localhost:PORT"):
        configure(ConfigureSettings(tmp_path / "certs.d", ("http://[::1]:5000",)))
    assert not (tmp_path / "certs.d").exists()
