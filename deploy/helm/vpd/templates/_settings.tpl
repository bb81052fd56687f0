{{/* What the processes are told: the recipe, then settings.json (where the parts find each other, then `settings`). */}}

{{- define "vpd.settings" -}}
{{- include "vpd.checkSettings" . -}}
{{- $name := include "vpd.fullname" . -}}
{{- $code := dict "url" (printf "http://%s-code-feedback:8202" $name) -}}
{{- $human := dict "url" (printf "http://%s-human-feedback:8204" $name) -}}
{{- $sources := dict "code" (ternary $code "none" .Values.codeFeedback.enabled) "human" (ternary $human "none" .Values.humanFeedback.enabled) -}}
{{- $settings := dict
  "run" (dict "name" .Values.run "dir" "/vpd/runs")
  "feedback" (dict "sources" $sources)
  "inference" (dict "url" (printf "http://%s-inference:8201" $name) "engine" .Values.inference.engine "policy_root" "/vpd")
  "code_feedback" (dict "isolation" .Values.codeFeedback.isolation)
  "human_feedback" (dict "database" "/data/human_feedback.sqlite3")
  "service" (dict "host" "0.0.0.0" "log_format" "json")
-}}
{{- if gt (int .Values.collector.replicas) 1 -}}
{{- $_ := set $settings "rollout" (dict "mode" "overlapped" "collectors" .Values.collector.replicas) -}}
{{- end -}}
{{- if gt (int .Values.learner.gpus) 1 -}}
{{- $_ := set $settings "learner" (dict "ranks" .Values.learner.gpus) -}}
{{- end -}}
{{- if eq (include "vpd.vllmContainer" .) "true" -}}
{{- $_ := set $settings.inference "vllm" (dict "url" "http://127.0.0.1:8000") -}}
{{- else if .Values.inference.vllm.arguments -}}
{{- $_ := set $settings.inference "vllm" (dict "arguments" .Values.inference.vllm.arguments) -}}
{{- end -}}
{{- mergeOverwrite $settings (deepCopy .Values.settings) | toPrettyJson -}}
{{- end }}

{{- define "vpd.checkSettings" -}}
{{- $settings := .Values.settings -}}
{{- if regexMatch "\"([a-z_]+_)?api_key\":" (toJson $settings) -}}
{{- fail "settings holds an api_key, which everybody may read there: put it into a Secret and name that in secret.settingsSecret." -}}
{{- end -}}
{{- if hasKey (dig "run" dict $settings) "name" -}}
{{- fail "settings.run.name is given by the value run: set run instead." -}}
{{- end -}}
{{- if hasKey $settings "queue" -}}{{- if hasKey $settings.queue "url" -}}
{{- fail "settings.queue.url may hold a password: set redis.enabled=false and redis.url, or the key queue-url of secret.existingSecret." -}}
{{- end -}}{{- end -}}
{{- if ne (dig "inference" "publish" "files" $settings) "files" -}}
{{- fail "settings.inference.publish must be files: learner and inference share no GPU and no open port in this chart." -}}
{{- end -}}
{{- if and (gt (int .Values.collector.replicas) 1) (eq (dig "rollout" "mode" "overlapped" $settings) "lockstep") -}}
{{- fail "collector.replicas must be 1 with settings.rollout.mode lockstep; several need overlapped." -}}
{{- end -}}
{{- end }}

{{/* "true" where a container of vLLM's own image computes beside the gateway. */}}
{{- define "vpd.vllmContainer" -}}
{{- and (eq .Values.inference.engine "vllm") (gt (int .Values.inference.gpus) 0) -}}
{{- end }}

{{- define "vpd.recipes" -}}
{{- with .Values.recipe }}
- --recipe
- recipes/{{ . }}.toml
{{- end }}
- --recipe
- /etc/vpd/settings.json
{{- end }}

{{/* A pod is made anew when what its processes are told has changed. */}}
{{- define "vpd.annotations" -}}
checksum/settings: {{ include "vpd.settings" .root | sha256sum }}
{{- if and .root.Values.metrics.annotations .port }}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ .port | quote }}
{{- end }}
{{- with .pod.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* (dict "root" $): the bearer key. */}}
{{- define "vpd.env" -}}
- name: VPD_API_KEY
  valueFrom: {secretKeyRef: {name: {{ include "vpd.secretName" .root }}, key: api-key}}
{{- end }}

{{- define "vpd.envFrom" -}}
{{- with .Values.secret.settingsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "vpd.queueEnv" -}}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "vpd.secretName" . }}, key: redis-password}}
- name: VPD_QUEUE__URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "vpd.fullname" . }}-redis:6379/0
{{- else }}
- name: VPD_QUEUE__URL
  valueFrom: {secretKeyRef: {name: {{ include "vpd.secretName" . }}, key: queue-url}}
{{- end }}
{{- end }}

{{- define "vpd.hubEnv" -}}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "vpd.secretName" . }}, key: hf-token, optional: true}}
{{- end }}

{{/* (dict "root" $ "part" "learner"): what is not on the list of networkPolicy.internet must not try to reach a hub. */}}
{{- define "vpd.offlineEnv" -}}
{{- if not (has .part .root.Values.networkPolicy.internet) }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- end }}

{{/* (a part's values): threads by the CPU limit, since inside a container `nproc` counts the node's cores. */}}
{{- define "vpd.threadsEnv" -}}
{{- if (.resources.limits | default dict).cpu }}
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu}}
{{- end }}
{{- end }}
