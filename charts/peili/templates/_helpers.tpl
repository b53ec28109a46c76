{{- define "peili.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Which pods are meant; the same for a whole life of a release. */ -}}
{{- define "peili.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "peili.mirrorSelector" -}}
{{ include "peili.selector" . }}
app.kubernetes.io/component: mirror
{{- end -}}

{{- define "peili.labels" -}}
{{ include "peili.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: peili
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Tells this release from every other in the cluster, in a label's 63 characters. */ -}}
{{- define "peili.release" -}}
{{- printf "%s/%s" .Release.Namespace .Release.Name | sha256sum | trunc 16 -}}
{{- end -}}

{{- define "peili.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "peili.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "peili.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* A flag with its value, as one argument. Kubernetes reads $(NAME) in arguments, and $$ as $. */ -}}
{{- define "peili.flag" -}}
{{- printf "--%s=%s" (index . 0) (index . 1 | toString | replace "$" "$$") | toJson -}}
{{- end -}}

{{- define "peili.listen" -}}
{{- $address := .address -}}
{{- if contains ":" $address }}{{ $address = printf "[%s]" $address }}{{ end -}}
{{- printf "%s:%d" $address (int .port) -}}
{{- end -}}

{{- /* containerd's own configuration: beside the registry directory, as containerd, k3s and RKE2 have it, unless named. */ -}}
{{- define "peili.configFile" -}}
{{- default (printf "%s/config.toml" (dir .Values.containerd.registryConfigPath)) .Values.containerd.configFile -}}
{{- end -}}

{{- /* A duration of the settings in whole seconds, rounded up. */ -}}
{{- define "peili.seconds" -}}
{{- $number := regexFind "^[0-9.]+" . | float64 -}}
{{- mulf $number (include "peili.unit" . | float64) | ceil | int -}}
{{- end -}}

{{- /* What a duration's unit is in seconds. */ -}}
{{- define "peili.unit" -}}
{{- index (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) (regexFind "[a-z]+$" .) -}}
{{- end -}}

{{- /* A quantity of memory in bytes. */ -}}
{{- define "peili.bytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[A-Za-z]*$" . -}}
{{- $factor := index (dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824) $unit -}}
{{- mul $number $factor -}}
{{- end -}}

{{- define "peili.secretName" -}}
{{- printf "%s-secrets" (include "peili.fullname" .) -}}
{{- end -}}

{{- define "peili.clusterSecretName" -}}
{{- default (include "peili.secretName" .) .Values.clusterSecret.existingSecret -}}
{{- end -}}

{{- define "peili.basicAuthSecretName" -}}
{{- default (include "peili.secretName" .) .Values.basicAuth.existingSecret -}}
{{- end -}}

{{- /* Where this release's identities lie below identity.directory: no two releases share one. */ -}}
{{- define "peili.identityName" -}}
{{- printf "%s-%s" .Release.Namespace (include "peili.fullname" .) -}}
{{- end -}}

{{- define "peili.containerSecurity" -}}
# uid 0 because containerd's content directory is 0700 root; no capability is needed for it.
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "peili.network" -}}
{{- if .Values.hostNetwork -}}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- else -}}
dnsPolicy: ClusterFirst
{{- end }}
{{- end -}}

{{- define "peili.scheduling" -}}
{{- with .Values.priorityClassName -}}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Labels of Prometheus that tell this release's series from another's. */ -}}
{{- define "peili.series" -}}
{{- printf "namespace=%q,job=%q" .Release.Namespace (printf "%s-operations" (include "peili.fullname" .)) -}}
{{- end -}}

{{- /* Labels and annotations of what the clean-up hook makes: all of it goes again when the hook is done. */ -}}
{{- define "peili.cleanupMeta" -}}
labels:
  {{- include "peili.labels" .root | nindent 2 }}
  app.kubernetes.io/component: cleanup
annotations:
  helm.sh/hook: post-delete
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- /* For what needs nothing of the node. */ -}}
{{- define "peili.nobody" -}}
runAsUser: 65534
runAsGroup: 65534
runAsNonRoot: true
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}
