{{/* Names, labels and images. What every pod has is in _pod.tpl, what the processes are told in _settings.tpl. */}}

{{- define "vpd.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-vpd" .Release.Name) (contains "vpd" .Release.Name)) -}}
{{- $name | trunc 32 | trimSuffix "-" -}}
{{- end }}

{{/* Never changed by a new version of the chart: Kubernetes refuses another selector. */}}
{{- define "vpd.releaseLabels" -}}
app.kubernetes.io/name: vpd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* (dict "root" $ "part" "inference") */}}
{{- define "vpd.selector" -}}
{{ include "vpd.releaseLabels" .root }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "vpd.labels" -}}
{{ include "vpd.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* (dict "root" $ "part" "inference"): name and labels of an object that belongs to a part. */}}
{{- define "vpd.metadata" -}}
name: {{ include "vpd.fullname" .root }}-{{ .part }}
labels: {{- include "vpd.labels" . | nindent 2 }}
{{- end }}

{{/* (dict "root" $ "name" "vpd-learner") */}}
{{- define "vpd.image" -}}
{{- with .root.Values.image.repository }}{{ trimSuffix "/" . }}/{{ end }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "vpd.secretName" -}}
{{ .Values.secret.existingSecret | default (include "vpd.fullname" .) }}
{{- end }}

{{- define "vpd.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ include "vpd.fullname" . }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* (dict "root" $ "volume" "runs"): the claim behind a volume of `storage`. */}}
{{- define "vpd.claim" -}}
{{ (index .root.Values.storage .volume).existingClaim | default (printf "%s-%s" (include "vpd.fullname" .root) .volume) }}
{{- end }}
