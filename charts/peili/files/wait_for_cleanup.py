"""Wait until the clean-up has run on every node: `wait_for_cleanup.py DAEMONSET LABEL=VALUE,… SECONDS`.

Helm waits for Jobs only, not for DaemonSets; this is the Job. It asks the Kubernetes API how many pods of the
clean-up's DaemonSet there are to be and how many are ready, which they are once their clean-up has succeeded. A
node that another release's Peili holds is done as well: that one takes over what this release had written there.
Leaves with 0 when all are done, with 1 when the time is over, and names the nodes that are not done. The time
counts from the making of the DaemonSet: helm does not wait longer because this pod was slow to start.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ACCOUNT = Path(os.environ.get("PEILI_SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
PAUSE = 1.0  # seconds between two questions
STANDSTILL = 3.0  # seconds without progress, after which the pods are looked at
CALL_TIMEOUT = 10.0  # seconds
PAGE = 500  # pods of one answer; all of a large cluster would not fit into the container's memory
MAXIMUM_ANSWER = 16 * 1024 * 1024  # bytes
NAMED_NODES = 50
# What kube-scheduler says where the rule is not the pod's own: of our own Peili, which has to end first, it says
# "didn't match pod anti-affinity rules" (pkg/scheduler/framework/plugins/interpodaffinity/filtering.go). Should it
# ever say it in other words, the wait ends with the node's name and these words.
HELD_BY_OTHERS = "didn't satisfy existing pods anti-affinity rules"


class ApiError(Exception):
    """The Kubernetes API did not answer as it must; the text says what it said."""


@dataclass(frozen=True)
class Answer:
    """What the Kubernetes API answered, and when by its own clock (seconds since 1970; None: it did not say)."""

    document: dict[str, Any]
    now: float | None


def trust() -> ssl.SSLContext:
    """Who may be the Kubernetes API: whom the cluster's own authority vouches for.

    Python 3.13 and newer refuse certificates that are not as RFC 5280 wants them. Authorities of older clusters
    (EKS, MicroK8s) lack the key identifiers, and every other client of the API takes them.
    """
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def ask(path: str) -> Answer:
    """GET a path of the Kubernetes API; raise ApiError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(host, port, context=trust(), timeout=CALL_TIMEOUT)
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
        date = answer.headers["Date"]
        return Answer(document, email.utils.parsedate_to_datetime(date).timestamp() if date else None)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ApiError(f"GET {path}: {error}") from error
    finally:
        connection.close()


def list_pods(path: str) -> Iterator[dict[str, Any]]:
    """The pods that a path with a query lists, asked for a page at a time; raise ApiError."""
    more = ""
    while True:
        page = ask(f"{path}&limit={PAGE}{more}").document
        yield from page.get("items", [])
        token = page.get("metadata", {}).get("continue", "")
        if not token:
            return
        more = f"&continue={urllib.parse.quote(token, safe='')}"


def age(answer: Answer) -> float:
    """For how many seconds an object has been there, by the clock that dated it; 0 where that is not known."""
    made = answer.document["metadata"].get("creationTimestamp")
    if made is None or answer.now is None:
        return 0.0
    return max(0.0, answer.now - datetime.fromisoformat(made).timestamp())


def progress(daemonset: dict[str, Any]) -> tuple[int, int] | None:
    """How many nodes are done, and of how many; None while the controller has not looked yet."""
    status = daemonset.get("status", {})
    if status.get("observedGeneration", 0) < daemonset["metadata"].get("generation", 1):
        return None
    return status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a pod by its type; empty where the pod has none."""
    conditions = pod.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry.get("type") == kind), {})


def unschedulable(pod: dict[str, Any]) -> str:
    """Why the scheduler finds no place for a pod, without what it thinks of preemption; empty where it has one."""
    scheduled = condition(pod, "PodScheduled")
    message = str(scheduled.get("message", "")) if scheduled.get("status") == "False" else ""
    return message.partition(" preemption:")[0]


def is_held_by_others(pod: dict[str, Any]) -> bool:
    """Whether a pod has no place because another release's Peili is there."""
    return HELD_BY_OTHERS in unschedulable(pod)


def unfinished(pods: Iterable[dict[str, Any]]) -> list[str]:
    """The nodes whose pod is not ready, each with what its container waits for."""
    return sorted(
        f"{node_of(pod)} ({reason(pod)})"
        for pod in pods
        if condition(pod, "Ready").get("status") != "True" and not is_held_by_others(pod)
    )


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
    return str(unschedulable(pod) or status.get("reason") or status.get("phase") or "unknown")


@dataclass
class Watch:
    """What was seen of a clean-up. `deadline` and `looked` are of time.monotonic()."""

    daemonset: str  # paths of the API
    pods: str
    seconds: float
    deadline: float
    looked: float
    counts: tuple[int, int] | None = None
    others: int = 0  # nodes that other releases hold

    def is_done(self) -> bool:
        """Look once more; raise ApiError."""
        answer = ask(self.daemonset)
        now = time.monotonic()
        self.deadline = min(self.deadline, now + self.seconds - age(answer))
        counts = progress(answer.document)
        if counts != self.counts:
            self.counts, self.others, self.looked = counts, 0, now
        elif counts is not None and now - self.looked >= STANDSTILL:
            self.others = sum(map(is_held_by_others, list_pods(self.pods)))
            self.looked = time.monotonic()
        return counts is not None and counts[0] + self.others >= counts[1]

    def __str__(self) -> str:
        if self.counts is None:
            return "waiting for the clean-up to start"
        others = f", {self.others} held by another release's Peili" if self.others else ""
        return f"{self.counts[0]} of {self.counts[1]} nodes{others}"


def main(name: str, labels: str, seconds: float) -> int:
    """Wait; return the exit status."""
    namespace = (ACCOUNT / "namespace").read_text().strip()
    watch = Watch(
        f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
        f"/api/v1/namespaces/{namespace}/pods?labelSelector={urllib.parse.quote(labels)}",
        seconds,
        deadline=time.monotonic() + seconds,
        looked=time.monotonic(),
    )
    said = ""
    while time.monotonic() < watch.deadline:
        try:
            done = watch.is_done()
            words = str(watch)
        except ApiError as error:
            done, words = False, str(error)
        if words != said:
            said = words
            print(words, flush=True)
        if done:
            return 0
        time.sleep(PAUSE)
    complain(watch.pods, seconds)
    return 1


def complain(path: str, seconds: float) -> None:
    """Say which nodes are not done, and what to do there."""
    print(f"not all nodes are cleaned up after {seconds:g} s", flush=True)
    try:
        nodes = unfinished(list_pods(path))
    except ApiError as error:
        nodes = [f"unknown: {error}"]
    for node in nodes[:NAMED_NODES]:
        print(f"  {node}", flush=True)
    if len(nodes) > NAMED_NODES:
        print(f"  and {len(nodes) - NAMED_NODES} more", flush=True)
    print("run `peili cleanup` there, or remove Peili's entries from hosts.toml; they do no harm", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
