{{/* What every pod has: who it is, how it is shut in, how it is watched, what it mounts. */}}

{{/* (dict "root" $ "pod" .Values.inference "user" 10001) */}}
{{- define "vpd.pod" -}}
serviceAccountName: {{ include "vpd.serviceAccountName" .root }}
automountServiceAccountToken: false
# Else Kubernetes adds variables such as VPD_INFERENCE_PORT, which no setting is.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .pod.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "name" "vpd-learner"): image and walls of a container. */}}
{{- define "vpd.container" -}}
image: {{ include "vpd.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "vpd.walls" . | nindent 2 }}
{{- end }}

{{- define "vpd.walls" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* (dict "pod" .Values.learner "gpus" 2) */}}
{{- define "vpd.resources" -}}
{{- $resources := deepCopy .pod.resources -}}
{{- if gt (int .gpus) 0 -}}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" (int .gpus)) ($resources.limits | default dict)) -}}
{{- end -}}
resources: {{- toYaml $resources | nindent 2 }}
{{- end }}

{{/* A service is ready when what it needs answers; it is started again only when it does not answer at all. */}}
{{- define "vpd.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 6
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "vpd.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: settings, mountPath: /etc/vpd, readOnly: true}
{{- end }}

{{/* (dict "root" $ "tmp" "256Mi") */}}
{{- define "vpd.volumes" -}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: {{ .tmp }}}
- name: settings
  configMap: {name: {{ include "vpd.fullname" .root }}}
{{- end }}

{{/* (dict "root" $ "volumes" (list "runs")) */}}
{{- define "vpd.claims" -}}
{{- range .volumes }}
- name: {{ . }}
  persistentVolumeClaim: {claimName: {{ include "vpd.claim" (dict "root" $.root "volume" .) }}}
{{- end }}
{{- end }}

{{/* (dict "root" $ "name" "vpd-learner"): holds a part of the trainer back until what it needs is ready. */}}
{{- define "vpd.wait" -}}
{{- $name := include "vpd.fullname" .root -}}
- name: wait
  {{- include "vpd.container" . | nindent 2 }}
  command: [python, -IS, /opt/vpd/wait_for.py]
  args:
    {{- if .root.Values.redis.enabled }}
    - tcp://{{ $name }}-redis:6379
    {{- end }}
    - http://{{ $name }}-inference:8201/readyz
    {{- if .root.Values.codeFeedback.enabled }}
    - http://{{ $name }}-code-feedback:8202/readyz
    {{- end }}
    {{- if .root.Values.criticFeedback.enabled }}
    - http://{{ $name }}-critic-feedback:8203/readyz
    {{- end }}
    {{- if .root.Values.humanFeedback.enabled }}
    - http://{{ $name }}-human-feedback:8204/readyz
    {{- end }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 64Mi}
{{- end }}
