"""Wait until the clean-up has run on every node: `wait_for_cleanup.py DAEMONSET LABEL=VALUE,… SECONDS`.

Helm waits for Jobs only, not for DaemonSets; this is the Job. It asks the Kubernetes API how many pods of the
clean-up's DaemonSet there are to be and how many are ready, which they are once their clean-up has succeeded.
Leaves with 0 when all are, with 1 when the time is over, and names the nodes that are not done.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ACCOUNT = Path(os.environ.get("PEILI_SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
PAUSE = 1.0  # seconds between two questions
CALL_TIMEOUT = 10.0  # seconds
MAXIMUM_ANSWER = 64 * 1024 * 1024  # bytes; a list of thousands of pods
NAMED_NODES = 50


class ApiError(Exception):
    """The Kubernetes API did not answer as it must; the text says what it said."""


def ask(path: str) -> dict[str, Any]:
    """GET a path of the Kubernetes API; raise ApiError."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=CALL_TIMEOUT)
    try:
        token = (ACCOUNT / "token").read_text().strip()
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        answer = connection.getresponse()
        content = answer.read(MAXIMUM_ANSWER)
        if answer.status != http.client.OK:
            raise ApiError(f"GET {path}: {answer.status} {content[:200].decode(errors='replace')}")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ApiError(f"GET {path}: not a JSON object")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ApiError(f"GET {path}: {error}") from error
    finally:
        connection.close()
    return document


def progress(daemonset: dict[str, Any]) -> tuple[int, int] | None:
    """How many nodes are done, and of how many; None while the controller has not looked yet."""
    status = daemonset.get("status", {})
    if status.get("observedGeneration", 0) < daemonset["metadata"].get("generation", 1):
        return None
    return status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)


def unfinished(pods: Iterable[dict[str, Any]]) -> list[str]:
    """The nodes whose pod is not ready, each with what its container waits for."""
    found = []
    for pod in pods:
        conditions = pod.get("status", {}).get("conditions", [])
        if any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in conditions):
            continue
        found.append(f"{node_of(pod)} ({reason(pod)})")
    return sorted(found)


def node_of(pod: dict[str, Any]) -> str:
    """The node that a pod is for: a DaemonSet's pods name it in their affinity before they are scheduled."""
    name = pod["spec"].get("nodeName")
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    wanted = [
        value
        for term in terms
        for field in term.get("matchFields", [])
        if field.get("key") == "metadata.name"
        for value in field.get("values", [])
    ]
    return str(name or (wanted[0] if wanted else "not scheduled"))


def reason(pod: dict[str, Any]) -> str:
    """Why a pod is not ready, as Kubernetes says it."""
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in containers:
        waiting = container.get("state", {}).get("waiting", {}).get("reason", "")
        if waiting and waiting != "PodInitializing":
            return str(waiting)
    return str(status.get("reason") or status.get("phase") or "unknown")


def main(name: str, labels: str, seconds: float) -> int:
    """Wait; return the exit status."""
    namespace = (ACCOUNT / "namespace").read_text().strip()
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
    deadline = time.monotonic() + seconds
    said = ""
    while time.monotonic() < deadline:
        try:
            counts = progress(ask(path))
            words = "waiting for the clean-up to start" if counts is None else f"{counts[0]} of {counts[1]} nodes"
        except ApiError as error:
            counts, words = None, str(error)
        if words != said:
            said = words
            print(words, flush=True)
        if counts is not None and counts[0] >= counts[1]:
            return 0
        time.sleep(PAUSE)
    complain(f"/api/v1/namespaces/{namespace}/pods?labelSelector={urllib.parse.quote(labels)}", seconds)
    return 1


def complain(path: str, seconds: float) -> None:
    """Say which nodes are not done, and what to do there."""
    print(f"not all nodes are cleaned up after {seconds:g} s", flush=True)
    try:
        nodes = unfinished(ask(path).get("items", []))
    except ApiError as error:
        nodes = [f"unknown: {error}"]
    for node in nodes[:NAMED_NODES]:
        print(f"  {node}", flush=True)
    if len(nodes) > NAMED_NODES:
        print(f"  and {len(nodes) - NAMED_NODES} more", flush=True)
    print("run `peili cleanup` there, or remove Peili's entries from hosts.toml; they do no harm", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
