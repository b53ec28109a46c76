{{- /*
The secrets that the chart makes itself, once in a rendering, into .Values.generated (base64, as Secret.data).
What the cluster has already is kept: `lookup` finds it on upgrades, and nothing where no cluster is asked
(`helm template`, most GitOps tools: name an existingSecret there).
`basicAuthRevision` is random and new whenever the password is, so that pods restart then and tell nothing of it.
*/ -}}
{{- define "peili.generate" -}}
{{- if not (hasKey .Values "generated") -}}
{{- $found := lookup "v1" "Secret" .Release.Namespace (include "peili.secretName" .) | default dict -}}
{{- $old := get $found "data" | default dict -}}
{{- $new := dict -}}
{{- if and .Values.clusterSecret.enabled (not .Values.clusterSecret.existingSecret) -}}
{{- $_ := set $new "cluster-secret" (get $old "cluster-secret" | default (randAlphaNum 48 | b64enc)) -}}
{{- end -}}
{{- if and .Values.basicAuth.enabled (not .Values.basicAuth.existingSecret) -}}
{{- $auth := .Values.basicAuth -}}
{{- $kept := get $old "basic-auth" -}}
{{- $line := "" -}}
{{- if $auth.password -}}
{{- $line = printf "%s:%s" $auth.username $auth.password | b64enc -}}
{{- else if hasPrefix (printf "%s:" $auth.username) ($kept | b64dec) -}}
{{- $line = $kept -}}
{{- else -}}
{{- $line = printf "%s:%s" $auth.username (randAlphaNum 32) | b64enc -}}
{{- end -}}
{{- $revision := get $old "basicAuthRevision" -}}
{{- if or (not $revision) (ne $line $kept) -}}
{{- $revision = randAlphaNum 12 | b64enc -}}
{{- end -}}
{{- $_ := set $new "basic-auth" $line -}}
{{- $_ := set $new "basicAuthRevision" $revision -}}
{{- end -}}
{{- $_ := set .Values "generated" $new -}}
{{- end -}}
{{- end -}}
