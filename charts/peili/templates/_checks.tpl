{{- /* What a schema cannot say: values that contradict each other. Each ends with a sentence for the operator. */ -}}
{{- define "peili.checks" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository is empty: name the repository of your Peili image, as registry.example.com/peili" -}}
{{- end -}}
{{- $ports := list $v.ports.registry $v.ports.router $v.ports.operations -}}
{{- if ne (len (uniq $ports)) 3 -}}
{{- fail (printf "ports: registry %v, router %v and operations %v have to differ from each other" $v.ports.registry $v.ports.router $v.ports.operations) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.hostNetwork -}}
{{- fail "networkPolicy.enabled has no effect with hostNetwork: a NetworkPolicy does not bind pods in the node's network. Use the cluster secret, your CNI's host policies or a firewall; or set hostNetwork to false" -}}
{{- end -}}
{{- if and (not $v.hostNetwork) $v.clusterSecret.enabled (not $v.clientNetworks) -}}
{{- fail "clientNetworks is empty: without hostNetwork, containerd's requests reach the pod from an address of the CNI's, which with a cluster secret has to be named here, as 10.244.0.1/32. The log line of a refused request names it" -}}
{{- end -}}
{{- if and (not $v.bootstrap.dns) (not $v.bootstrap.extra) -}}
{{- fail "bootstrap: with dns off and no extra source no node would find a peer" -}}
{{- end -}}
{{- $socket := dir $v.containerd.socket -}}
{{- if or (eq $socket "/") (eq $socket "/run") (eq $socket "/var/run") -}}
{{- fail (printf "containerd.socket %s: its directory is mounted into the pod, and %s is too much for that" $v.containerd.socket $socket) -}}
{{- end -}}
{{- $config := dir (include "peili.configFile" .) -}}
{{- if or (eq $config "/") (eq $config "/etc") -}}
{{- fail (printf "containerd.configFile: the directory of %s is mounted into the pod, and %s is too much for that; name containerd's own config.toml" (include "peili.configFile" .) $config) -}}
{{- end -}}
{{- if eq $v.routerProtocol "spegel" -}}
{{- if $v.clusterSecret.enabled -}}
{{- fail "routerProtocol spegel: nodes of that kind cannot prove that they are members; set clusterSecret.enabled to false" -}}
{{- end -}}
{{- if not $v.peerNetworks -}}
{{- fail "routerProtocol spegel: name the networks of the nodes in peerNetworks, as 10.0.0.0/16" -}}
{{- end -}}
{{- end -}}
{{- range $value, $labels := dict "commonLabels" $v.commonLabels "podLabels" $v.podLabels "serviceMonitor.labels" $v.serviceMonitor.labels "prometheusRule.labels" $v.prometheusRule.labels "dashboard.labels" $v.dashboard.labels -}}
{{- range $name := keys $labels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (hasPrefix "helm.sh/" $name) (hasPrefix "peili/" $name) -}}
{{- fail (printf "%s: the label %s is the chart's own" $value $name) -}}
{{- end -}}
{{- if and (ne $value "commonLabels") (ne $value "podLabels") (hasKey $v.commonLabels $name) -}}
{{- fail (printf "%s: the label %s is in commonLabels already" $value $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.basicAuth.enabled (not $v.basicAuth.existingSecret) (not $v.basicAuth.username) -}}
{{- fail "basicAuth.username is empty: name a user, or an existingSecret" -}}
{{- end -}}
{{- end -}}
