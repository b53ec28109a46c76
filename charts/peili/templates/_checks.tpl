{{- /* What a schema cannot say: values that contradict each other. Each ends with a sentence for the operator. */ -}}
{{- define "peili.checks" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository is empty: name the repository of your Peili image, as registry.example.com/peili" -}}
{{- end -}}
{{- if not (regexMatch (include "peili.repositoryPattern" .) $v.image.repository) -}}
{{- fail (printf "image.repository %s: write it as registry.example.com:5000/peili, in lower case, without https://; a tag belongs into image.tag, a digest into image.digest" $v.image.repository) -}}
{{- end -}}
{{- $ports := list $v.ports.registry $v.ports.router $v.ports.operations -}}
{{- if ne (len (uniq $ports)) 3 -}}
{{- fail (printf "ports: registry %v, router %v and operations %v have to differ from each other" $v.ports.registry $v.ports.router $v.ports.operations) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.hostNetwork -}}
{{- fail "networkPolicy.enabled has no effect with hostNetwork: a NetworkPolicy does not bind pods in the node's network. Use the cluster secret, your CNI's host policies or a firewall; or set hostNetwork to false" -}}
{{- end -}}
{{- if and (not $v.hostNetwork) $v.clusterSecret.enabled (not $v.clientNetworks) -}}
{{- fail "clientNetworks is empty: without hostNetwork, containerd's requests reach the pod from an address of the CNI's, mostly another one on each node. With a cluster secret all of them have to be named here, as 10.244.0.1/32 and 10.244.1.1/32. The log line of a refused request names it" -}}
{{- end -}}
{{- if and (not $v.bootstrap.dns) (not $v.bootstrap.extra) -}}
{{- fail "bootstrap: with dns off and no extra source no node would find a peer" -}}
{{- end -}}
{{- range $value := list "resolveTimeout" "stallTimeout" "gracePeriod" "manifestWait" -}}
{{- $text := get $v $value -}}
{{- $seconds := mulf (regexFind "^[0-9.]+" $text | float64) (include "peili.unit" $text | float64) -}}
{{- if or (lt $seconds 0.001) (gt $seconds 86400.0) -}}
{{- fail (printf "%s %s: a duration lies between 1ms and 24h" $value $text) -}}
{{- end -}}
{{- end -}}
{{- range $value := list "clientNetworks" "peerNetworks" -}}
{{- range get $v $value -}}
{{- if include "peili.hostBits" . -}}
{{- fail (printf "%s %s: this is an address in a network; write the network's own address before the slash" $value .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $v.bootstrap.extra -}}
{{- if hasPrefix "file:" . -}}
{{- fail (printf "bootstrap.extra %s: the chart mounts no file of yours into the pod; use a source with static:, dns: or http:" .) -}}
{{- end -}}
{{- if and (hasPrefix "dns:" .) (gt (len .) 257) -}}
{{- fail (printf "bootstrap.extra %s: a DNS name has at most 253 characters" .) -}}
{{- end -}}
{{- end -}}
{{- $hosts := list -}}
{{- range $v.mirroredRegistries -}}
{{- $hosts = append $hosts (regexReplaceAll "^https?://" . "" | trimSuffix "/" | lower) -}}
{{- end -}}
{{- if ne (len $hosts) (len (uniq $hosts)) -}}
{{- fail (printf "mirroredRegistries: a registry is named twice in %s" (join ", " $v.mirroredRegistries)) -}}
{{- end -}}
{{- range $v.filters -}}
{{- if include "peili.badFilter" . -}}
{{- fail (printf "filters %s: not a regular expression of Python's re" .) -}}
{{- end -}}
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

{{- /* [HOST[:PORT]/]PATH, as container runtimes read it (distribution's reference grammar). */ -}}
{{- define "peili.repositoryPattern" -}}
{{- $name := "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?" -}}
{{- $part := "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*" -}}
{{- printf "^((%s([.]%s)*|\\[[0-9A-Fa-f:]+\\])(:[0-9]{1,5})?/)?%s(/%s)*$" $name $name $part $part -}}
{{- end -}}

{{- /*
Not empty where bits of a network's address are set behind its prefix, which the program refuses.
Octet by octet, or group by group: those of its bits that the prefix leaves have to be 0.
*/ -}}
{{- define "peili.hostBits" -}}
{{- $address := regexReplaceAll "/.*$" . "" -}}
{{- $left := regexFind "[0-9]+$" . | int -}}
{{- $groups := list -}}
{{- $width := 8 -}}
{{- if contains ":" $address -}}
{{- $width = 16 -}}
{{- $halves := splitList "::" $address -}}
{{- $before := compact (splitList ":" (first $halves)) -}}
{{- $after := list -}}
{{- if eq (len $halves) 2 -}}{{- $after = compact (splitList ":" (last $halves)) -}}{{- end -}}
{{- $zeros := list -}}
{{- range until (int (sub 8 (add (len $before) (len $after)))) -}}{{- $zeros = append $zeros "0" -}}{{- end -}}
{{- range concat $before $zeros $after -}}{{- $groups = append $groups (int (printf "0x%s" .)) -}}{{- end -}}
{{- else -}}
{{- range splitList "." $address -}}{{- $groups = append $groups (int .) -}}{{- end -}}
{{- end -}}
{{- range $groups -}}
{{- $size := 1 -}}
{{- range until (int (sub $width (max 0 (min $width $left)))) -}}{{- $size = mul $size 2 -}}{{- end -}}
{{- if mod . $size -}}bits{{- end -}}
{{- $left = sub $left $width | int -}}
{{- end -}}
{{- end -}}

{{- /*
Not empty for what is certainly no regular expression of Python's. Helm has Go's: what Python alone knows, as a look
ahead, is left to the program, which says so in the pod's log.
*/ -}}
{{- define "peili.badFilter" -}}
{{- $rest := regexReplaceAll "\\\\\\\\" . "" -}}
{{- $python := regexMatch "[(][?]|\\\\[0-9AZxuUN]|[*+?}][+]|[{]" $rest -}}
{{- if regexMatch "\\\\([CE-MO-RTVXYceg-mo-qyz]|$)" $rest -}}
escape
{{- else if regexMatch "[(][?](<[A-Za-z_]|[a-zA-Z]*U)" $rest -}}
group
{{- else if and (not $python) (not (regexMatch (printf "^|(?:%s)" .) "")) -}}
syntax
{{- end -}}
{{- end -}}
