{{/* Name of everything. */}}
{{- define "fgpu.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "fgpu.manager" -}}{{ include "fgpu.fullname" . }}-manager{{- end -}}
{{- define "fgpu.members" -}}{{ include "fgpu.fullname" . }}-manager-members{{- end -}}
{{- define "fgpu.etcd" -}}{{ include "fgpu.fullname" . }}-etcd{{- end -}}
{{- define "fgpu.agent" -}}{{ include "fgpu.fullname" . }}-agent{{- end -}}

{{/* What selects the pods of a part: (list . "manager"). Never changes. */}}
{{- define "fgpu.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: fgpu
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object of a part: (list . "manager"). */}}
{{- define "fgpu.labels" -}}
{{- $root := index . 0 -}}
{{ include "fgpu.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image: (list . .Values.manager.image). */}}
{{- define "fgpu.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{ printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end -}}

{{/* Name of the secret with the manager's certificate. */}}
{{- define "fgpu.tlsSecret" -}}
{{- default (printf "%s-tls" (include "fgpu.manager" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* Name of the secret with the first tokens. */}}
{{- define "fgpu.tokenSecret" -}}
{{- default (printf "%s-tokens" (include "fgpu.fullname" .)) .Values.tokens.existingSecret -}}
{{- end -}}

{{- define "fgpu.manager.serviceAccount" -}}
{{- default (include "fgpu.manager" .) .Values.manager.serviceAccount.existingName -}}
{{- end -}}

{{- define "fgpu.agent.serviceAccount" -}}
{{- default (include "fgpu.agent" .) .Values.agent.serviceAccount.existingName -}}
{{- end -}}

{{/* Where the manager is found from inside the cluster. */}}
{{- define "fgpu.url" -}}
https://{{ include "fgpu.manager" . }}.{{ .Release.Namespace }}.svc:{{ .Values.manager.service.port }}
{{- end -}}

{{/* Names the manager's certificate must cover, one a line. */}}
{{- define "fgpu.manager.names" -}}
{{- $names := list "localhost" -}}
{{- range $service := list (include "fgpu.manager" .) (printf "*.%s" (include "fgpu.members" .)) -}}
{{- if not (hasPrefix "*" $service) -}}
{{- $names = append $names $service -}}
{{- $names = append $names (printf "%s.%s" $service $.Release.Namespace) -}}
{{- end -}}
{{- $names = append $names (printf "%s.%s.svc" $service $.Release.Namespace) -}}
{{- $names = append $names (printf "%s.%s.svc.%s" $service $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- concat $names .Values.tls.selfSigned.extraDnsNames | join "\n" -}}
{{- end -}}

{{/* Names of etcd's members, one a line. Not by wildcard: a member looks up the names in the certificate of one that
     dials it, to see that it comes from where it says. */}}
{{- define "fgpu.etcd.names" -}}
{{- $service := include "fgpu.etcd" . -}}
{{- $names := list "localhost" -}}
{{- range $index := until (int .Values.etcd.replicas) -}}
{{- $names = append $names (printf "%s-%d.%s.%s.svc" $service $index $service $.Release.Namespace) -}}
{{- $names = append $names (printf "%s-%d.%s.%s.svc.%s" $service $index $service $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- $names | join "\n" -}}
{{- end -}}

{{/* manager.toml: what the values say, and over it what only the chart can know. */}}
{{- define "fgpu.manager.config" -}}
{{- $store := dict -}}
{{- if .Values.etcd.enabled -}}
{{- $endpoints := list -}}
{{- range $index := until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "https://%s-%d.%s.%s.svc:2379" (include "fgpu.etcd" $) $index (include "fgpu.etcd" $) $.Release.Namespace) -}}
{{- end -}}
{{- $store = dict "etcd" $endpoints "etcd_ca" "/etc/fgpu/etcd/ca.crt" "etcd_cert" "/etc/fgpu/etcd/tls.crt" "etcd_key" "/etc/fgpu/etcd/tls.key" -}}
{{- else -}}
{{- $own := .Values.externalEtcd -}}
{{- if not $own.endpoints -}}{{- fail "externalEtcd.endpoints: name at least one, or set etcd.enabled" -}}{{- end -}}
{{- $store = dict "etcd" $own.endpoints -}}
{{- with $own.prefix }}{{- $_ := set $store "etcd_prefix" . -}}{{- end -}}
{{- if $own.tlsSecret -}}
{{- $_ := set $store "etcd_ca" "/etc/fgpu/etcd/ca.crt" -}}
{{- if $own.clientCertificate -}}
{{- $_ := set $store "etcd_cert" "/etc/fgpu/etcd/tls.crt" -}}
{{- $_ := set $store "etcd_key" "/etc/fgpu/etcd/tls.key" -}}
{{- end -}}
{{- end -}}
{{- if $own.username -}}
{{- $_ := set $store "etcd_user" $own.username -}}
{{- $_ := set $store "etcd_password_file" "/etc/fgpu/etcd-password/password" -}}
{{- $_ := required "externalEtcd.passwordSecret: goes together with externalEtcd.username" $own.passwordSecret -}}
{{- end -}}
{{- end -}}
{{- $fixed := dict "listen" "0.0.0.0:7070" "data_dir" "/var/lib/fgpu/manager" "store" $store "tls" (dict "cert" "/etc/fgpu/tls/tls.crt" "key" "/etc/fgpu/tls/tls.key") -}}
{{- toToml (mergeOverwrite (deepCopy .Values.manager.config) $fixed) -}}
{{- end -}}

{{/* agent.toml, likewise. */}}
{{- define "fgpu.agent.config" -}}
{{- $agent := .Values.agent -}}
{{- $tls := dict "ca" "/etc/fgpu/tls/ca.crt" -}}
{{- with $agent.tlsServerName }}{{- $_ := set $tls "server_name" . -}}{{- end -}}
{{- $fixed := dict "managers" (list (include "fgpu.url" .)) "token_file" "/etc/fgpu/token/agent-token" "tls" $tls "state_dir" $agent.stateDir "runtime" "docker" "docker" (printf "unix://%s" $agent.dockerSocket.path) "allowed_mounts" $agent.allowedMounts -}}
{{- $config := deepCopy $agent.config -}}
{{- if and (eq $agent.nvidia.mode "hostPath") (not (hasKey $config "accelerator")) -}}
{{- $_ := set $config "accelerator" "nvml:/run/fgpu/driver/libnvidia-ml.so.1" -}}
{{- end -}}
{{- toToml (mergeOverwrite $config $fixed) -}}
{{- end -}}
