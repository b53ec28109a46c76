"""Containers of the rendered chart on one node of the tests: what the kubelet would hand to containerd for each.

What cannot be taken over, because there is no Kubernetes here: the image's name (it is the one that was built); the
paths of containerd and the ports, which are told to the chart in its values, for each node of the tests has
directories of its own; the name of the bootstrap service, which a hosts file answers instead of cluster DNS; a
service account's token, probes and scheduling.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tests.chart.rendering import Object, Rendered, as_kubelet, containers

# What `ctr run` grants where nothing is said (containerd's and Docker's defaults); the chart drops all of it.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
ENTRY_POINT = ("/usr/bin/peili",)
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class RenderedPods:
    """The pods of a release as one node sees them. Volumes that are no host paths become files in `directory`."""

    def __init__(self, rendered: Rendered, directory: Path, environment: Mapping[str, str], hosts: Path) -> None:
        """`environment`: what the kubelet takes from the pod, by variable; `hosts`: the node's /etc/hosts."""
        self._rendered = rendered
        self._directory = directory
        self._environment = environment
        self._hosts = hosts

    def arguments(self, name: str) -> list[str]:
        """A container's `args` with all variables replaced; the entry point is the image's."""
        return as_kubelet(self._rendered.container(name), self._environment)

    def command(self, name: str) -> list[str]:
        """What a container runs: its command or the image's entry point, and its arguments."""
        return [*self._rendered.container(name).get("command", ENTRY_POINT), *self.arguments(name)]

    def options(self, name: str, *, as_user: bool = True) -> list[str]:
        """The flags of `ctr run` for a container: rights, limits, network, environment, mounts.

        `as_user` False leaves the user to the image, for a ctr that cannot be told one.
        """
        container, [pod] = self._rendered.container(name), [pod for pod in self._rendered.pods() if _has(pod, name)]
        assert pod["hostNetwork"]
        words = [*_rights(container["securityContext"], as_user=as_user), "--net-host"]
        words.append(f"--memory-limit={_bytes(container['resources']['limits']['memory'])}")
        words += [f"--env={key}={value}" for key, value in self._variables(container).items()]
        words.append(f"--mount=type=bind,src={self._hosts},dst=/etc/hosts,options=rbind:ro")
        return [*words, *self._mounts(container, pod)]

    def _variables(self, container: Object) -> dict[str, str]:
        entries = container.get("env", [])
        return {one["name"]: one["value"] if "value" in one else self._environment[one["name"]] for one in entries}

    def _mounts(self, container: Object, pod: Object) -> list[str]:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        words = []
        # As containerd's CRI plugin does: a directory before what is mounted below it.
        for mount in sorted(container["volumeMounts"], key=lambda one: len(PurePosixPath(one["mountPath"]).parts)):
            propagation = {"HostToContainer": "rslave"}.get(mount.get("mountPropagation", ""), "rprivate")
            mode = "ro" if mount.get("readOnly") else "rw"
            source = self._source(volumes[mount["name"]])
            target = mount["mountPath"]
            words.append(f"--mount=type=bind,src={source},dst={target},options=rbind:{mode}:{propagation}")
        return words

    def _source(self, volume: Object) -> Path:
        if "hostPath" in volume:
            path = Path(volume["hostPath"]["path"])
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
            assert path.is_dir(), path
            return path
        directory = self._directory / str(volume["name"])
        directory.mkdir(parents=True, exist_ok=True)
        if "secret" in volume:
            secret = self._rendered.one("Secret", volume["secret"]["secretName"])
            for item in volume["secret"]["items"]:
                path = directory / item["path"]
                path.write_bytes(base64.b64decode(secret["data"][item["key"]]))
                path.chmod(volume["secret"]["defaultMode"])
        else:
            for name, text in self._rendered.one("ConfigMap", volume["configMap"]["name"], hooks=True)[
                "data"
            ].items():
                (directory / name).write_text(text)
                (directory / name).chmod(0o644)
        return directory


def _has(pod: Object, name: str) -> bool:
    return any(container["name"] == name for container in containers(pod))


def _rights(context: Object, *, as_user: bool) -> list[str]:
    """The flags for a security context; what these tests could not carry out is refused."""
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not context["privileged"]
    words = ["--seccomp", *(f"--cap-drop=CAP_{name}" for name in CAPABILITIES)]
    words += ["--read-only"] if context["readOnlyRootFilesystem"] else []
    words += ["--allow-new-privs"] if context["allowPrivilegeEscalation"] else []
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    return [*words, f"--user={user}"] if as_user else words


def _bytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)(\D*)", quantity)
    assert found is not None, quantity
    return int(found[1]) * _UNITS[found[2]]
