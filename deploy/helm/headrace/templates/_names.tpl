{{- define "headrace.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What a Service, a PodDisruptionBudget or a policy finds pods by: dict root, component. */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "headrace.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{- define "headrace.kafka" -}}
{{- if .Values.trial.enabled -}}
{{ include "headrace.name" . }}-trial-kafka:9092
{{- else -}}
{{ required "kafka.bootstrap names the brokers (or trial.enabled brings one)" .Values.kafka.bootstrap }}
{{- end -}}
{{- end -}}

{{/* How long a pod may take to stop, from what its process is told: dict root, component. */}}
{{- define "headrace.graceS" -}}
{{- $own := index .root.Values .component -}}
{{- if eq .component "ranker" -}}
{{- add 5 (div (add $own.stopNoticeMs $own.stopDrainMs 999) 1000) -}}
{{- else -}}
{{- $own.stopS -}}
{{- end -}}
{{- end -}}
