{{/*
Refuses names that another mesh holds, and a change of them under captured pods. Without a cluster to ask (helm template)
nobody is seen. `ambit install` looks more closely: at every namespace.
*/}}
{{- define "ambit.checkNames" -}}
{{- if and .Release.IsInstall (eq (include "ambit.istioNames" .) "true") }}
{{- $there := "compat.istioNames is %v, and another mesh holds these names: %s. Remove it, or set compat.istioNames=false" }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- if eq (dig "labels" "app" "" .metadata) "istiod" }}
{{- fail (printf $there $.Values.compat.istioNames (printf "Deployment %s/%s" .metadata.namespace .metadata.name)) }}
{{- end }}
{{- end }}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items }}
{{- if or (eq .metadata.name "istio-cni-node") (and (eq .metadata.name "ztunnel") (ne .metadata.namespace $.Release.Namespace)) }}
{{- fail (printf $there $.Values.compat.istioNames (printf "DaemonSet %s/%s" .metadata.namespace .metadata.name)) }}
{{- end }}
{{- end }}
{{- with lookup "v1" "ConfigMap" "default" "istio-ca-root-cert" }}
{{- if ne (dig "labels" "app.kubernetes.io/part-of" "" .metadata) "ambit" }}
{{- fail (printf $there $.Values.compat.istioNames "ConfigMap default/istio-ca-root-cert") }}
{{- end }}
{{- end }}
{{- end }}
{{- with lookup "apps/v1" "DaemonSet" .Release.Namespace "ambit-node" }}
{{- range (index .spec.template.spec.containers 0).env }}
{{- if and (eq .name "AMBIT_ISTIO_NAMES") (ne .value (include "ambit.istioNames" $)) }}
{{- fail "compat.istioNames cannot be changed while pods may be captured by the other names: ambit uninstall, then install anew" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
