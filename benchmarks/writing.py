"""Asking as containerd does: it begins to write a blob before it asks for it, and commits it when it is whole."""

from __future__ import annotations

from benchmarks.asking import Answered, Asker
from benchmarks.stores import Content, Store
from peili.demo.ingest import Ingest
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from tests.integration.lab.images import LAYER


def begin(store: Store, blob: Content) -> Ingest:
    """The node whose store this is will see that its containerd wants this blob, and how large it is."""
    return Ingest(store.directory, Descriptor(Digest.parse(blob.digest), LAYER, blob.size))


def pull_blob(asker: Asker, store: Store, blob: Content) -> Answered:
    """Ask the node whose store this is; what is found is in the store afterwards, hashed."""
    ingest = begin(store, blob)
    try:
        answer = asker.get(blob.path, write=lambda piece: ingest.write(bytes(piece)))
        if answer.status == 200:
            ingest.commit()
    finally:
        ingest.abort()
    return answer
