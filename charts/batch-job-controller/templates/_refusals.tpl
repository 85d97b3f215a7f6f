{{/* What the chart refuses, each with a sentence that names the key and the fix. What a single value may be is in values.schema.json. */}}

{{- define "batch-job-controller.refuse" -}}
{{- include "batch-job-controller.refuse.names" . -}}
{{- include "batch-job-controller.refuse.volume" . -}}
{{- include "batch-job-controller.refuse.environment" . -}}
{{- include "batch-job-controller.refuse.ports" . -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor.enabled and serviceMonitor.enabled are both true: every series would be scraped twice; enable one of them" -}}
{{- end -}}
{{- end -}}

{{- define "batch-job-controller.refuse.names" -}}
{{- $full := include "batch-job-controller.fullname" . -}}
{{- if not (regexMatch "^[a-z]" $full) -}}
{{- fail (printf "the name %q does not begin with a letter, as a Service's must; set fullnameOverride" $full) -}}
{{- end -}}
{{- end -}}

{{- define "batch-job-controller.refuse.volume" -}}
{{- $replicas := .Values.replicaCount | int -}}
{{- if not .Values.persistence.enabled -}}
{{- if gt $replicas 1 -}}
{{- fail (printf "replicaCount is %d and persistence.enabled is false: replicas share the reports; set persistence.enabled to true and persistence.accessMode to ReadWriteMany" $replicas) -}}
{{- end -}}
{{- else if ne .Values.persistence.accessMode "ReadWriteMany" -}}
{{- $mode := .Values.persistence.accessMode -}}
{{- if gt $replicas 1 -}}
{{- fail (printf "replicaCount is %d and persistence.accessMode is %s: replicas share the reports; set persistence.accessMode to ReadWriteMany, or replicaCount to 1" $replicas $mode) -}}
{{- end -}}
{{- if ne (.Values.strategy.type | default "Recreate") "Recreate" -}}
{{- fail (printf "strategy.type is %s and persistence.accessMode is %s: the new pod would wait for the volume, the old one for the new; set strategy.type to Recreate, or persistence.accessMode to ReadWriteMany" .Values.strategy.type $mode) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Server-side apply, as Helm 4 does it, refuses two entries of one name. */}}
{{- define "batch-job-controller.refuse.environment" -}}
{{- $taken := list "NAMESPACE" "CONFIG_MAP_NAME" "POD_NAME" "POD_IP" "REPORT_DIRECTORY" -}}
{{- range .Values.extraEnv -}}
{{- if has .name $taken -}}
{{- fail (printf "extraEnv has %s, which the chart sets or which is given twice; remove it (for REPORT_DIRECTORY set config.reportDirectory)" .name) -}}
{{- end -}}
{{- $taken = append $taken .name -}}
{{- end -}}
{{- end -}}

{{- define "batch-job-controller.refuse.ports" -}}
{{- $seen := dict -}}
{{- range $port := list (list "config.callbackServicePort" .Values.config.callbackServicePort) (list "config.healthProbePort" .Values.config.healthProbePort) (list "config.fileServerPort" .Values.config.fileServerPort) (list "config.metrics.port" .Values.config.metrics.port) -}}
{{- $number := index $port 1 | int | toString -}}
{{- with get $seen $number -}}
{{- fail (printf "%s and %s are both %s; set one of them to a port of its own" . (index $port 0) $number) -}}
{{- end -}}
{{- $_ := set $seen $number (index $port 0) -}}
{{- end -}}
{{- end -}}
