{{- define "ambit.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "ambit.labels" -}}
app.kubernetes.io/name: ambit
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Whether the names that other meshes may hold too are ours. `auto` never changes by itself: it is `true`. */}}
{{- define "ambit.istioNames" -}}
{{- if eq (toString .Values.compat.istioNames) "false" }}false{{ else }}true{{ end }}
{{- end }}

{{- define "ambit.dataplaneMode" -}}
{{- if eq (include "ambit.istioNames" .) "true" }}istio.io/dataplane-mode{{ else }}ambit.dev/dataplane-mode{{ end }}
{{- end }}

{{- define "ambit.redirection" -}}
{{- if eq (include "ambit.istioNames" .) "true" }}ambient.istio.io/redirection{{ else }}ambit.dev/redirection{{ end }}
{{- end }}

{{- define "ambit.rootCertificate" -}}
{{- if eq (include "ambit.istioNames" .) "true" }}istio-ca-root-cert{{ else }}ambit-ca-root-cert{{ end }}
{{- end }}

{{/* Where on a host the agent and the ztunnel meet: another mesh has its own ones meet at the first. */}}
{{- define "ambit.zds" -}}
{{- if eq (include "ambit.istioNames" .) "true" }}/var/run/ztunnel{{ else }}/var/run/ambit{{ end }}
{{- end }}

{{- define "ambit.log" -}}
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
- name: LOG_FORMAT
  value: {{ .Values.logFormat | quote }}
{{- end }}
