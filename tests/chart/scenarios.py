"""Sets of values that an operator may choose: every test of the whole chart goes over all of them."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]

SCENARIOS: dict[str, Values] = {
    "default": {},
    "image by digest": {
        "image": {
            "repository": "registry.example.com/peili",
            "digest": "sha256:" + "ab" * 32,
            "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "pull"}],
    },
    "no secret": {"clusterSecret": {"enabled": False}},
    "secrets of the operator": {
        "clusterSecret": {"existingSecret": "our-secret"},
        "basicAuth": {"enabled": True, "existingSecret": "our-password"},
    },
    "passwords": {"basicAuth": {"enabled": True, "username": "nodes", "password": 'pa"ss $(HOME) :wörd'}},
    "generated password": {"basicAuth": {"enabled": True}},
    "registries and mirrors": {
        "mirroredRegistries": ["https://docker.io", "https://ghcr.io", "http://registry.local:5000"],
        "extraMirrorTargets": ["https://cache.example.com/proxy", "http://10.0.0.9:5000"],
        "prependExisting": False,
    },
    "filters and times": {
        "filters": [r"^docker\.io/library/.*$", "-rc[0-9]+$", r'.*["\\]$$', "$(POD_IP)"],
        "resolveTags": False,
        "resolveLatest": False,
        "resolveTimeout": "1.5s",
        "stallTimeout": "800ms",
        "gracePeriod": "1m",
        "follow": False,
        "fanOut": 2,
        "manifestWait": "1s",
        "maxUploads": 0,
        "logLevel": "debug",
        "zone": "rack-7",
    },
    "k3s": {
        "containerd": {
            "socket": "/run/k3s/containerd/containerd.sock",
            "contentPath": "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content",
            "registryConfigPath": "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
            "namespace": "k8s.io",
        }
    },
    "registry directory elsewhere": {
        "containerd": {"registryConfigPath": "/etc/docker/certs.d", "configFile": "/etc/containerd/config.toml"}
    },
    "IPv4 only": {"listenAddress": "0.0.0.0"},
    "pod network": {
        "hostNetwork": False,
        "clientNetworks": ["10.244.0.0/16", "fd00:10::/64"],
        "networkPolicy": {
            "enabled": True,
            "operationsFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 443}]}],
        },
    },
    "bootstrap without DNS": {
        "bootstrap": {
            "dns": False,
            "extra": ["static:10.0.0.5:29501,[fd00::5]:29501", "http://peers.example.com/id"],
        }
    },
    "beside Spegel": {
        "routerProtocol": "spegel",
        "peerNetworks": ["10.0.0.0/16", "fd00::/64"],
        "clusterSecret": {"enabled": False},
        "ports": {"registry": 5000},
    },
    "identity": {"identity": {"persistent": True, "directory": "/srv/peili"}},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"folder": "Nodes"}},
    },
    "dashboard elsewhere": {"dashboard": {"enabled": True, "namespace": "grafana"}},
    "scheduling": {
        "nodeSelector": {"pool": "batch"},
        "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None},
        "maxUnavailable": "10%",
        "priorityClassName": "",
        "seLinuxOptions": {"type": "spc_t"},
        "resources": {"requests": {"memory": "128Mi", "cpu": "50m"}, "limits": {"memory": "1G"}},
        "commonLabels": {"team": "platform"},
        "podLabels": {"team": "nodes", "tier": "node"},
        "podAnnotations": {"example.com/note": "yes"},
        "serviceAccount": {"create": False, "name": "restricted"},
    },
    "GKE": {"criticalPodsQuota": True, "serviceAccount": {"annotations": {"example.com/a": "b"}}},
    "nothing extra": {
        "cleanup": {"enabled": False},
        "tolerations": [],
        "nodeSelector": {},
        "commonLabels": {},
        "resources": {},
        "prometheusRule": {"enabled": True},
        "fullnameOverride": "mirror",
    },
    "further flags": {"extraArgs": ["--client-network=10.0.0.0/8"], "clientNetworks": ["192.168.0.0/24"]},
}
