{{/* Settings that are not secret, one map: those of all, of the component, and what the user said. */}}
{{- define "headrace.settings" -}}
{{- $v := .root.Values -}}
{{- $own := index $v .component -}}
{{- $all := dict
  "HEADRACE_KAFKA" (include "headrace.kafka" .root)
  "HEADRACE_DURABILITY" $v.redis.durability
  "HEADRACE_EVENTS_TOPIC" $v.kafka.eventsTopic
  "HEADRACE_UPDATES_TOPIC" $v.kafka.updatesTopic
  "HEADRACE_EVENTS_PARTITIONS" $v.kafka.eventsPartitions
  "HEADRACE_UPDATES_PARTITIONS" $v.kafka.updatesPartitions
  "HEADRACE_REPLICATION_FACTOR" $v.kafka.replicationFactor
-}}
{{- if $v.trial.enabled -}}
{{- $name := include "headrace.name" .root -}}
{{- $_ := set $all "HEADRACE_REDIS" (printf "redis://%s-trial-valkey:6379/0" $name) -}}
{{- $_ := set $all "HEADRACE_DURABILITY" "aof" -}}
{{- $_ := set $all "HEADRACE_REPLICATION_FACTOR" 1 -}}
{{- else -}}
{{- $_ := set $all "HEADRACE_KAFKA_SECURITY_PROTOCOL" $v.kafka.securityProtocol -}}
{{- if $v.kafka.secret.name -}}
{{- $_ := set $all "HEADRACE_KAFKA_SASL_MECHANISM" $v.kafka.saslMechanism -}}
{{- end -}}
{{- if $v.kafka.ca.name -}}
{{- $_ := set $all "HEADRACE_KAFKA_CA_FILE" "/etc/headrace/kafka/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- if and $v.ports.tls.name (ne .component "apply") -}}
{{- $_ := set $all "HEADRACE_TLS_CERT_FILE" "/etc/headrace/ports/tls.crt" -}}
{{- $_ := set $all "HEADRACE_TLS_KEY_FILE" "/etc/headrace/ports/tls.key" -}}
{{- end -}}
{{- if eq .component "ranker" -}}
{{- $_ := set $all "HEADRACE_METRICS_PORT" 0 -}}
{{- $_ := set $all "HEADRACE_HTTP_PORT" 8080 -}}
{{- $_ := set $all "HEADRACE_GRPC_PORT" 8081 -}}
{{- $_ := set $all "HEADRACE_STOP_NOTICE_MS" $own.stopNoticeMs -}}
{{- $_ := set $all "HEADRACE_STOP_DRAIN_MS" $own.stopDrainMs -}}
{{- if or $own.model.source $own.model.volume -}}
{{- $_ := set $all "HEADRACE_MODEL" "/models/current" -}}
{{- end -}}
{{- else -}}
{{- $_ := set $all "HEADRACE_METRICS_PORT" 9100 -}}
{{- end -}}
{{- if eq .component "archive" -}}
{{- $_ := set $all "HEADRACE_ARCHIVE_STATE" "/var/lib/headrace/archive-state" -}}
{{- $_ := set $all "TMPDIR" "/var/lib/headrace" -}}
{{- end -}}
{{- range $name, $value := mergeOverwrite $all $v.settings $own.settings }}
- name: {{ $name }}
  value: {{ if kindIs "float64" $value }}{{ $value | int64 | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Secrets, by reference alone. */}}
{{- define "headrace.secrets" -}}
{{- $v := .root.Values -}}
{{- if not $v.trial.enabled }}
- name: HEADRACE_REDIS
  valueFrom:
    secretKeyRef:
      name: {{ required "redis.secret.name names the Secret with the URL of Redis (or trial.enabled brings one)" $v.redis.secret.name }}
      key: {{ $v.redis.secret.key }}
{{- with $v.kafka.secret }}
{{- if .name }}
- name: HEADRACE_KAFKA_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .usernameKey }}}}
- name: HEADRACE_KAFKA_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .passwordKey }}}}
{{- end }}
{{- end }}
{{- end }}
{{- with $v.ports.tokens }}
{{- if .name }}
{{- if eq $.component "ranker" }}
- name: HEADRACE_RANK_TOKENS
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .rankKey }}}}
{{- end }}
- name: HEADRACE_ADMIN_TOKENS
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .adminKey }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* An HTTP probe: list of root, port and path. A kubelet does not look at the certificate. */}}
{{- define "headrace.probe" -}}
httpGet: {path: {{ index . 2 }}, port: {{ index . 1 }}{{ if (index . 0).Values.ports.tls.name }}, scheme: HTTPS{{ end }}}
{{- end -}}

{{- define "headrace.hardened" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "headrace.mounts" -}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- if .root.Values.featureStore }}
  - {name: feature-store, mountPath: /opt/headrace/feature_store.yaml, subPath: feature_store.yaml, readOnly: true}
{{- end }}
{{- if and .root.Values.kafka.ca.name (not .root.Values.trial.enabled) }}
  - {name: kafka-ca, mountPath: /etc/headrace/kafka, readOnly: true}
{{- end }}
{{- if and .root.Values.ports.tls.name (ne .component "apply") }}
  - {name: ports-tls, mountPath: /etc/headrace/ports, readOnly: true}
{{- end }}
{{- if eq .component "archive" }}
  - {name: state, mountPath: /var/lib/headrace}
{{- end }}
{{- if eq .component "ranker" }}
{{- with .root.Values.ranker.model }}
{{- if or .source .volume }}
  - {name: model, mountPath: /models{{ if .volume }}/current{{ end }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* All of a pod but its containers: dict root, component. */}}
{{- define "headrace.around" -}}
{{- $v := .root.Values -}}
{{- $own := index $v .component -}}
serviceAccountName: {{ include "headrace.name" .root }}-{{ .component }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "headrace.graceS" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  nodeAffinity:
    {{- with $v.architecture.require }}
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: kubernetes.io/arch, operator: In, values: {{ toJson . }}}
    {{- end }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        preference:
          matchExpressions:
            - {key: kubernetes.io/arch, operator: In, values: [{{ $v.architecture.prefer }}]}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- if $v.featureStore }}
  - {name: feature-store, configMap: {name: {{ include "headrace.name" .root }}-{{ if eq .component "apply" }}apply-{{ end }}feature-store}}
{{- end }}
{{- if and $v.kafka.ca.name (not $v.trial.enabled) (ne .component "apply") }}
  - name: kafka-ca
    secret:
      secretName: {{ $v.kafka.ca.name }}
      items: [{key: {{ $v.kafka.ca.key }}, path: ca.crt}]
{{- end }}
{{- with $v.ports.tls }}
{{- if and .name (ne $.component "apply") }}
  - name: ports-tls
    secret:
      secretName: {{ .name }}
      items: [{key: {{ .certKey }}, path: tls.crt}, {key: {{ .keyKey }}, path: tls.key}]
{{- end }}
{{- end }}
{{- if eq .component "archive" }}
  - {name: state, emptyDir: {}}
{{- end }}
{{- if eq .component "ranker" }}
{{- with $own.model }}
{{- if .volume }}
  - name: model
    {{- toYaml .volume | nindent 4 }}
{{- else if .source }}
  - {name: model, emptyDir: {sizeLimit: 2Gi}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Pods of one component on different zones first, then on different nodes: dict root, component. */}}
{{- define "headrace.spread" -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "headrace.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* The container of a component, without probes: dict root, component, args. */}}
{{- define "headrace.container" -}}
{{- $own := index .root.Values .component -}}
name: {{ .component }}
image: {{ include "headrace.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- include "headrace.settings" . | trim | nindent 2 }}
  {{- include "headrace.secrets" . | trim | nindent 2 }}
resources:
  {{- toYaml $own.resources | nindent 2 }}
{{ include "headrace.hardened" . }}
{{ include "headrace.mounts" . }}
{{- end -}}
