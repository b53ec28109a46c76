"""The generated messages are those of the .proto files, under names that collide with nobody's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pool

import peili.containerd.client
import peili.containerd.cri
from peili.containerd.api import content_pb2, cri_pb2, events_pb2, images_pb2

API = Path(content_pb2.__file__).parent
SOURCE = API.parents[2]


def test_the_committed_modules_are_generated_from_the_proto_files(tmp_path: Path) -> None:
    protos = sorted(API.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(SOURCE), f"--python_out={tmp_path}"]
    subprocess.run([*command, *map(str, protos)], check=True, timeout=60)
    for proto in protos:
        name = f"{proto.stem}_pb2.py"
        generated = (tmp_path / API.relative_to(SOURCE) / name).read_text()
        assert (API / name).read_text() == generated, f"{name} is stale: see {API / 'README.md'}"
        assert (API / name).with_suffix(".pyi").exists()


def test_files_are_registered_under_our_own_path() -> None:
    pool = descriptor_pool.Default()
    for module in (content_pb2, cri_pb2, events_pb2, images_pb2):
        assert pool.FindFileByName(module.DESCRIPTOR.name) is not None
        assert module.DESCRIPTOR.name.startswith("peili/containerd/api/")


def test_every_method_that_is_called_is_declared_with_its_types() -> None:
    pool = descriptor_pool.Default()
    methods = [
        value
        for module in (peili.containerd.client, peili.containerd.cri)
        for value in vars(module).values()
        if isinstance(value, peili.containerd.channel.Method)
    ]
    assert len(methods) >= 14
    for method in methods:
        declared = pool.FindMethodByName(method.path.lstrip("/").replace("/", "."))
        assert declared.input_type is method.request.DESCRIPTOR
        assert declared.output_type is method.response.DESCRIPTOR
