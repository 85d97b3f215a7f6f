{{/* Names, labels and the two files that the controller reads. Rendering is pure: nothing random, no time, no lookup. */}}

{{- define "batch-job-controller.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* A name of at most 63 characters that a Service may have: release names may hold dots. */}}
{{- define "batch-job-controller.fullname" -}}
{{- $name := include "batch-job-controller.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The full name with a suffix, at most 63 characters; where it is cut a hash keeps it apart. Takes (list context suffix). */}}
{{- define "batch-job-controller.suffixed" -}}
{{- $full := include "batch-job-controller.fullname" (index . 0) -}}
{{- $suffix := index . 1 -}}
{{- $name := printf "%s-%s" $full $suffix -}}
{{- if gt (len $name) 63 -}}
{{- $kept := sub 54 (len $suffix) | int -}}
{{- $name = printf "%s-%s-%s" ($full | trunc $kept | trimSuffix "-") ($full | sha256sum | trunc 7) $suffix -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Cluster-wide objects: two releases of one name may be in two namespaces. */}}
{{- define "batch-job-controller.clusterName" -}}
{{- printf "%s-%s" (include "batch-job-controller.namespace" .) (include "batch-job-controller.fullname" .) -}}
{{- end -}}

{{- define "batch-job-controller.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "batch-job-controller.selectorLabels" -}}
app.kubernetes.io/name: {{ include "batch-job-controller.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of an object: the chart's own win over `extra`, those over global.commonLabels, so that no key is there twice.
     Takes (dict "context" context "component" component "extra" labels). */}}
{{- define "batch-job-controller.labels" -}}
{{- $chart := printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $labels := include "batch-job-controller.selectorLabels" .context | fromYaml -}}
{{- $_ := set $labels "helm.sh/chart" $chart -}}
{{- $_ := set $labels "app.kubernetes.io/version" .context.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .context.Release.Service -}}
{{- include "batch-job-controller.mergedLabels" (dict "context" .context "labels" $labels "component" .component "extra" .extra) -}}
{{- end -}}

{{/* Labels of a pod: none that changes with the chart's version, so that an upgrade of the chart alone restarts nothing. */}}
{{- define "batch-job-controller.podLabels" -}}
{{- $labels := include "batch-job-controller.selectorLabels" .context | fromYaml -}}
{{- include "batch-job-controller.mergedLabels" (dict "context" .context "labels" $labels "component" .component "extra" .extra) -}}
{{- end -}}

{{- define "batch-job-controller.mergedLabels" -}}
{{- $labels := .labels -}}
{{- with .component }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- merge $labels (deepCopy (.extra | default dict)) (deepCopy (.context.Values.global.commonLabels | default dict)) | toYaml -}}
{{- end -}}

{{- define "batch-job-controller.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "batch-job-controller.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* registry/repository:tag@digest. Takes (dict "image" image "tag" default "context" context). */}}
{{- define "batch-job-controller.image" -}}
{{- $registry := .context.Values.global.imageRegistry | default .image.registry -}}
{{- with $registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest -}}
{{- with .image.tag }}:{{ . }}{{ end -}}@{{ .image.digest -}}
{{- else -}}
:{{ .image.tag | default .tag -}}
{{- end -}}
{{- end -}}

{{/* global.imagePullSecrets as a JSON list of {name: …}, whichever way they are written. */}}
{{- define "batch-job-controller.pullSecrets" -}}
{{- $secrets := list -}}
{{- range .Values.global.imagePullSecrets -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{- define "batch-job-controller.callbackServiceName" -}}
{{- .Values.config.callbackServiceName | default (include "batch-job-controller.suffixed" (list . "callback")) -}}
{{- end -}}

{{- define "batch-job-controller.configName" -}}
{{- .Values.config.name | default (include "batch-job-controller.fullname" .) -}}
{{- end -}}

{{- define "batch-job-controller.jobServiceAccountName" -}}
{{- if .Values.config.jobServiceAccount -}}
{{- .Values.config.jobServiceAccount -}}
{{- else if .Values.job.serviceAccount.create -}}
{{- include "batch-job-controller.suffixed" (list . "job") -}}
{{- end -}}
{{- end -}}

{{- define "batch-job-controller.metricsPrefix" -}}
{{- .Values.config.metrics.prefix | default (include "batch-job-controller.configName" . | replace "-" "_") -}}
{{- end -}}

{{/* config.yaml: the values with what the chart knows better where they are empty. */}}
{{- define "batch-job-controller.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "name" (include "batch-job-controller.configName" .) -}}
{{- $_ := set $config "callbackServiceName" (include "batch-job-controller.callbackServiceName" .) -}}
{{- $_ := set $config "jobServiceAccount" (include "batch-job-controller.jobServiceAccountName" .) -}}
{{- if not $config.jobImagePullSecrets -}}
{{- $_ := set $config "jobImagePullSecrets" (include "batch-job-controller.pullSecrets" . | fromJsonArray) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* pod-template.yaml: a Go text/template, which the controller renders for each node. */}}
{{- define "batch-job-controller.podTemplate" -}}
{{- if .Values.job.podTemplate -}}
{{- .Values.job.podTemplate -}}
{{- else -}}
apiVersion: v1
kind: Pod
metadata:
  labels:
    {{- include "batch-job-controller.podLabels" (dict "context" . "component" "job") | nindent 4 }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.job.activeDeadlineSeconds }}
  activeDeadlineSeconds: {{ . | int64 }}
  {{- end }}
  {{- with .Values.job.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.job.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: job
      image: {{ include "batch-job-controller.image" (dict "image" .Values.job.image "tag" "latest" "context" .) | quote }}
      {{- with .Values.job.image.pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      {{- with .Values.job.command }}
      command:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.job.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.job.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.job.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: job
          mountPath: /job
          readOnly: true
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: job
      configMap:
        name: {{ include "batch-job-controller.fullname" . }}
        items:
          - key: job.sh
            path: job.sh
    - name: tmp
      emptyDir: {}
{{- end -}}
{{- end -}}

{{/* Label matchers of the controller's own series: those that the enabled monitor gives them. */}}
{{- define "batch-job-controller.seriesSelector" -}}
{{- $namespace := include "batch-job-controller.namespace" . -}}
{{- if .Values.prometheusRule.selector -}}
{{- .Values.prometheusRule.selector -}}
{{- else if .Values.podMonitor.enabled -}}
namespace="{{ $namespace }}", job="{{ $namespace }}/{{ include "batch-job-controller.fullname" . }}"
{{- else -}}
namespace="{{ $namespace }}", job="{{ include "batch-job-controller.suffixed" (list . "metrics") }}"
{{- end -}}
{{- end -}}
