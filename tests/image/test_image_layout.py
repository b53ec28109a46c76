"""Packing an image, and what the Containerfile and the build without a registry have in common. Needs no root."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from deploy import build_image, layout, rootfs

CONTAINERFILE = (build_image.HERE / "Containerfile").read_text()


def tree(root: Path, time: int) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    program = root / "usr/bin/peili"
    program.write_text("#!/usr/bin/python3\n")
    program.chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "tmp").mkdir(mode=0o700)
    (root / "tmp").chmod(0o1777)
    os.utime(program, (time, time))
    return root


def packed(root: Path, output: Path) -> dict[str, bytes]:
    layout.pack(root, "localhost/peili:1.2.3", "arm64", {"Cmd": ["run"]}, output)
    with tarfile.open(output) as archive:
        return {member.name: read(archive, member) for member in archive}


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def test_the_same_tree_gives_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    layout.pack(tree(tmp_path / "a", 1_000_000), "localhost/peili:1", "amd64", {}, first)
    layout.pack(tree(tmp_path / "b", 2_000_000), "localhost/peili:1", "amd64", {}, second)

    assert first.read_bytes() == second.read_bytes()


def test_every_blob_is_what_its_name_says_and_is_referred_to(tmp_path: Path) -> None:
    files = packed(tree(tmp_path / "root", 0), tmp_path / "image.tar")
    blobs = {f"sha256:{name.rpartition('/')[2]}": content for name, content in files.items() if "/" in name}
    [entry] = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blobs[entry["digest"]])
    config = json.loads(blobs[manifest["config"]["digest"]])

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert all(layout.digest_of(content) == digest for digest, content in blobs.items())
    assert entry["platform"] == {"os": "linux", "architecture": "arm64"}
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/peili:1.2.3"
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    for descriptor in (entry, manifest["config"], *manifest["layers"]):
        assert len(blobs[descriptor["digest"]]) == descriptor["size"]
    [layer] = manifest["layers"]
    with tarfile.open(fileobj=io.BytesIO(blobs[layer["digest"]])) as archive:
        members = {member.name: member for member in archive}
    assert members["usr/bin/peili"].mode == 0o755
    assert members["tmp"].mode == 0o1777
    assert members["bin"].linkname == "usr/bin"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


def test_the_containerfile_says_the_same_of_the_image() -> None:
    config = build_image.IMAGE_CONFIG

    def words(name: str) -> str:
        found = re.findall(rf"^{name} ((?:.*\\\n)*.*)", CONTAINERFILE, re.M)
        assert len(found) == 1, name
        return str(found[0])

    assert json.loads(words("ENTRYPOINT")) == config["Entrypoint"]
    assert json.loads(words("CMD")) == config["Cmd"]
    assert words("USER") == config["User"]
    assert words("WORKDIR") == config["WorkingDir"]
    assert words("ENV").split() == config["Env"]
    assert {port: {} for port in words("EXPOSE").split()} == config["ExposedPorts"]
    assert dict(re.findall(r'(\S+)="([^"]*)"', words("LABEL"))) == config["Labels"]
    assert f"debian:{build_image.SUITE}-slim" in CONTAINERFILE


def test_the_containerfile_names_no_architecture_and_installs_by_hash() -> None:
    commands = "\n".join(line for line in CONTAINERFILE.splitlines() if not line.startswith("#"))

    assert not re.search(r"amd64|x86|arm|aarch|riscv", commands)
    assert "--require-hashes -r /build/run.txt" in commands


def test_docstrings_go_and_everything_else_stays() -> None:
    source = """'''A module.'''
class Empty:
    '''Only this.'''
def work(value):
    '''What it does.'''
    assert value, "no value"
    return '''kept'''
async def nothing():
    '''Only this.'''
"""
    tree = ast.parse(source)
    rootfs.strip_docstrings(tree)
    names: dict[str, object] = {}
    exec(compile(tree, "module", "exec"), names)
    work = names["work"]

    assert names.get("__doc__") is None
    assert [names[name].__doc__ for name in ("Empty", "work", "nothing")] == [None, None, None]
    assert callable(work)
    assert work(1) == "kept"
    with pytest.raises(AssertionError, match="no value"):
        work(0)
