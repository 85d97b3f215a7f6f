//! The job pod's template: a Go `text/template` that renders to a pod in YAML or JSON.
//!
//! It is parsed once, where a syntax error is found, and rendered once for each node; a text that was read for the node
//! before is not read again, which is most of them: job pods know their node from their environment. What the
//! controller adds to the rendered pod is the business of `core::job_pod`. The template engine is the crate `gtmpl-ng`;
//! the few functions in which it differs from Go on the three strings that a template can see are replaced by ours.

mod functions;
mod quantity;
mod source;
mod typed_value;
mod yaml_value;
mod zero_values;

use std::sync::{Arc, Mutex, PoisonError};

use gtmpl_ng::{Context, Template};
use k8s_openapi::api::core::v1::Pod;

use typed_value::{Leniency, TypedValueError, from_value};
use yaml_value::{ParseValueError, Value, parse_first_json_value, parse_first_yaml_document};

/// The name that error messages give the template.
const TEMPLATE_NAME: &str = "job-pod";

/// Why a template is refused or does not render; one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodTemplateError {
    /// The text is no Go template.
    #[error("{0}")]
    Syntax(String),
    /// The template asked for something that the values do not have.
    #[error("{0}")]
    Render(String),
    /// What was rendered is neither YAML nor JSON.
    #[error("rendered template: {0}")]
    Malformed(ParseValueError),
    /// What was rendered is empty.
    #[error("rendered template: empty")]
    Empty,
    /// What was rendered is no pod: the first field that does not fit.
    #[error("rendered template: {field}")]
    NotAPod {
        /// Path, reason.
        field: String,
    },
}

/// A parsed template; cloning is cheap.
#[derive(Clone)]
pub struct PodTemplate {
    text: Arc<str>,
    template: Arc<Template>,
    newest: Arc<Mutex<Option<Rendered>>>,
}

/// A text and the pod that it says.
struct Rendered {
    text: String,
    pod: Pod,
}

impl std::fmt::Debug for PodTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodTemplate")
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

impl PartialEq for PodTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PodTemplate {}

impl PodTemplate {
    /// Parses the template.
    ///
    /// # Errors
    /// [`PodTemplateError::Syntax`] with the line.
    pub fn parse(text: &str) -> Result<Self, PodTemplateError> {
        let mut template = Template::with_name(TEMPLATE_NAME);
        template.add_funcs(functions::FUNCTIONS);
        let source = source::for_engine(text).map_err(|error| {
            PodTemplateError::Syntax(format!("template: {TEMPLATE_NAME}:{error}"))
        })?;
        template
            .parse(source)
            .map_err(|error| PodTemplateError::Syntax(one_line(&error.to_string())))?;
        Ok(Self {
            text: text.into(),
            template: Arc::new(template),
            newest: Arc::default(),
        })
    }

    /// The template as it was given, to be kept with an execution.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Renders the pod for one node, as the template has it: without what the controller adds.
    ///
    /// # Errors
    /// Any kind of [`PodTemplateError`] but a syntax error.
    pub fn render(
        &self,
        node: &str,
        execution_id: &str,
        namespace: &str,
    ) -> Result<Pod, PodTemplateError> {
        let text = self.render_text(node, execution_id, namespace)?;
        // Whoever panicked here left a pair that belongs together.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = newest.as_ref().filter(|known| known.text == text) {
            return Ok(known.pod.clone());
        }
        let (value, leniency) = read_document(&text)?;
        let mut pod: Pod = from_value(&value, leniency).map_err(|error| not_a_pod(&error))?;
        zero_values::drop_zero_values(&mut pod);
        *newest = Some(Rendered {
            text,
            pod: pod.clone(),
        });
        Ok(pod)
    }

    /// Renders the text alone.
    fn render_text(
        &self,
        node: &str,
        execution_id: &str,
        namespace: &str,
    ) -> Result<String, PodTemplateError> {
        #[allow(
            clippy::disallowed_types,
            reason = "the engine's map; it is walked in the order of its keys"
        )]
        let values: std::collections::HashMap<String, gtmpl_ng::Value> = [
            ("NodeName", node),
            ("ExecutionID", execution_id),
            ("Namespace", namespace),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), gtmpl_ng::Value::from(value)))
        .collect();
        self.template
            .render(&Context::from(values))
            .map_err(|error| PodTemplateError::Render(one_line(&error.to_string())))
    }
}

fn not_a_pod(error: &TypedValueError) -> PodTemplateError {
    PodTemplateError::NotAPod {
        field: one_line(&error.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads the first document, without its `apiVersion` and `kind`: it becomes a pod whatever it says.
fn read_document(text: &str) -> Result<(Value, Leniency), PodTemplateError> {
    let json = text
        .trim_start()
        .starts_with('{')
        .then(|| parse_first_json_value(text));
    let (value, leniency) = if let Some(Ok(value)) = json {
        (value, Leniency::Strict)
    } else {
        // What begins with a brace may still be YAML in flow style.
        let document = parse_first_yaml_document(text).map_err(PodTemplateError::Malformed)?;
        let document = document.ok_or(PodTemplateError::Empty)?;
        (document, Leniency::NumbersAsText)
    };
    match value {
        Value::Mapping(mut entries) => {
            entries.retain(|(key, _)| key != "apiVersion" && key != "kind");
            Ok((Value::Mapping(entries), leniency))
        }
        Value::Null => Ok((value, leniency)),
        _ => Err(PodTemplateError::NotAPod {
            field: "a pod is a mapping".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(template: &str) -> Result<String, PodTemplateError> {
        PodTemplate::parse(template)?.render_text("node-a", "202611232359", "batch")
    }

    fn check(template: &str, expected: &str) {
        assert_eq!(text(template).as_deref(), Ok(expected), "{template}");
    }

    fn refused(template: &str) -> PodTemplateError {
        match text(template) {
            Ok(rendered) => panic!("{template} rendered {rendered:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn actions_follow_go() {
        check("a {{- /* c */ -}} b", "ab");
        check("{{/* c */}}x", "x");
        check("{{ .NodeName }}/{{ $.Namespace }}", "node-a/batch");
        check("{{ $n := .NodeName }}{{ $n = \"x\" }}{{ $n }}", "x");
        check(
            "{{ if eq .NodeName \"b\" }}1{{ else if eq .NodeName \"node-a\" }}2{{ else }}3{{ end }}",
            "2",
        );
        check("{{ with .Nope }}1{{ else }}2{{ end }}", "2");
        check(
            "{{ range $k, $v := . }}{{ $k }}={{ $v }};{{ end }}",
            "ExecutionID=202611232359;Namespace=batch;NodeName=node-a;",
        );
        check("{{ range 3 }}{{ . }}{{ end }}", "012");
        check(
            "{{ range $i := 3 }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $i }}{{ end }}",
            "02",
        );
        check("{{ range .Nope }}x{{ else }}none{{ end }}", "none");
        check(
            "{{ with .Nope }}1{{ else with .NodeName }}{{ . }}{{ else }}3{{ end }}.",
            "node-a.",
        );
        check(
            "a {{- with .Nope }}1{{- else with .None -}} 2 {{- else with \"\" }}3{{ else -}} 4 {{- end -}} b",
            "a4b",
        );
        check(
            "{{ with 0 }}{{ else with 1 }}{{ if false }}{{ else if true }}{{ range 2 }}x{{ end }}{{ end }}{{ end }}y",
            "xxy",
        );
        check(
            "{{ \"\\u00e9\\x41\\101\\a\\\"\" }}{{ '\\n' }}{{ '\\u00e9' }}{{ '\\'' }}",
            "éAA\u{7}\"1023339",
        );
        check("{{ `a\\nb` }}{{ printf `%s\\t` \"x\" }}", "a\\nbx\\t");
        check(
            "{{ define \"t\" }}[{{ . }}]{{ end }}{{ template \"t\" .NodeName }}",
            "[node-a]",
        );
        check("{{ block \"t\" .NodeName }}<{{ . }}>{{ end }}", "<node-a>");
        check(
            "{{ . }}",
            "map[ExecutionID:202611232359 Namespace:batch NodeName:node-a]",
        );
        check(
            "{{ `raw` }}{{ 'a' }}{{ true }}{{ 1.5 }}{{ 0x10 }}",
            "raw97true1.516",
        );
        check("{{ (index . \"NodeName\") }}", "node-a");
        check("{{ \"a\\tb\" }}", "a\tb");
        check("{{- 3 -}}", "3");
        check("{{ \"}}\" }}", "}}");
    }

    #[test]
    fn missing_keys_have_no_value() {
        check("{{ .Nope }}", "<no value>");
        check("{{ .Nope.Deeper }}", "<no value>");
        check("{{ $x := .Nope }}{{ $x }}", "<no value>");
        check("{{ printf \"%s|%v\" .Nope .Nope }}", "%!s(<nil>)|<nil>");
        check("{{ print .Nope }}", "<nil>");
        check("{{ html .Nope }}", "&lt;no value&gt;");
        check("{{ urlquery .Nope }}", "%3Cno+value%3E");
        check("{{ index . \"Nope\" }}|", "|");
        check(
            "{{ eq .Nope \"\" }}{{ eq .Nope .Nope }}{{ not .Nope }}",
            "falsetruetrue",
        );
        check("{{ or .Nope \"d\" }}{{ and .NodeName \"e\" }}", "de");
    }

    #[test]
    fn functions_follow_go() {
        check(
            "{{ printf \"%s/%q/%d/%5s|%-5s|%x\" .Namespace .NodeName 7 \"a\" \"b\" \"hi\" }}",
            "batch/\"node-a\"/7/    a|b    |6869",
        );
        check(
            "{{ printf \"%v %t %T %05d %c %U\" 1.5 true \"x\" 42 65 65 }}",
            "1.5 true string 00042 A U+0041",
        );
        check(
            "{{ printf \"%d\" \"x\" }}{{ printf \"%s\" }}{{ printf \"a\" 1 }}",
            "%!d(string=x)%!s(MISSING)a%!(EXTRA int=1)",
        );
        check(
            "{{ printf \"%.2f\" 3.14159 }}{{ printf \"%6.2f\" 2.5 }}",
            "3.14  2.50",
        );
        check("{{ len .NodeName }}{{ len . }}", "63");
        check(
            "{{ slice .NodeName 0 4 }}|{{ slice .NodeName 5 }}",
            "node|a",
        );
        check("{{ index .NodeName 0 }}", "110");
        check("{{ html \"<a&'\\\">\" }}", "&lt;a&amp;&#39;&#34;&gt;");
        check("{{ js \"it's <b>\" }}", "it\\'s \\u003Cb\\u003E");
        check("{{ urlquery \"a b&c\" }}", "a+b%26c");
        check(
            "{{ print 1 2 \"a\" \"b\" 3 }}|{{ println \"a\" 1 }}",
            "1 2ab3|a 1\n",
        );
        check("{{ and 1 0 }}{{ or 0 \"\" }}|{{ not 1 }}", "0|false");
        check(
            "{{ eq 1 2 1 }}{{ ne 1 2 }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt \"b\" \"a\" }}{{ ge 1 2 }}",
            "truetruetruetruetruefalse",
        );
        check("{{ .NodeName | printf \"%s-%s\" \"a\" | len }}", "8");
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for template in [
            "{{ .NodeName",
            "{{ nosuch .NodeName }}",
            "{{ if }}x{{ end }}",
            "{{ if .NodeName }}",
            "{{ end }}",
            "{{ $undefined }}",
            "{{ break }}",
            "{{ \"unclosed }}",
            "{{ /* unclosed }}",
            "{{ 1 | 2 }}",
            "{{ . | }}",
            "{{ . | | len }}",
            "{{ (. | ) }}",
            "{{ if true }}{{ else with .NodeName }}{{ end }}",
            "{{ with .NodeName }}{{ else if true }}{{ end }}",
            "{{ \"\\z\" }}",
            "{{ \"\\'\" }}",
            "{{ 'ab' }}",
            "{{ else }}",
        ] {
            assert!(
                matches!(
                    PodTemplate::parse(template),
                    Err(PodTemplateError::Syntax(_))
                ),
                "{template}"
            );
        }
        for template in [
            "{{ nil }}",
            "{{ .NodeName.Foo }}",
            "{{ range .NodeName }}{{ end }}",
            "{{ template \"missing\" }}",
            "{{ eq 1 \"a\" }}",
            "{{ lt true false }}",
            "{{ lt 1 1.5 }}",
            "{{ lt .Nope 1 }}",
            "{{ eq 1 }}",
            "{{ len 3 }}",
            "{{ len .Nope }}",
            "{{ index .NodeName 99 }}",
            "{{ index . 1 }}",
            "{{ slice .NodeName 9 }}",
            "{{ not }}",
            "{{ printf 1 }}",
            "{{ .NodeName 1 }}",
            "{{ call .NodeName }}",
        ] {
            let error = refused(template);
            assert!(
                matches!(error, PodTemplateError::Render(_)),
                "{template}: {error:?}"
            );
        }
    }

    #[test]
    fn a_syntax_error_names_the_template_and_the_line() {
        let error = PodTemplate::parse("a\nb {{ .NodeName")
            .unwrap_err()
            .to_string();
        assert!(error.contains("job-pod") && error.contains(":2"), "{error}");
    }

    fn pod(template: &str) -> serde_json::Value {
        let pod = PodTemplate::parse(template)
            .unwrap()
            .render("node-a", "202611232359", "batch");
        serde_json::to_value(pod.unwrap_or_else(|error| panic!("{template}: {error}"))).unwrap()
    }

    #[test]
    fn numbers_and_booleans_become_text_where_text_is_wanted() {
        let pod = pod(
            "metadata: {annotations: {a: 1, b: yes, c: 1.10, 5: x}}\nspec:\n  containers:\n  - {name: m, args: [1, on, 0x10], env: [{name: A, value: 010}], resources: {limits: {cpu: 1, memory: 1.5Gi}}}\n  activeDeadlineSeconds: 1e3\n",
        );
        assert_eq!(
            pod["metadata"]["annotations"],
            serde_json::json!({"a": "1", "b": "true", "c": "1.1", "5": "x"})
        );
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["args"], serde_json::json!(["1", "true", "16"]));
        assert_eq!(container["env"][0]["value"], "8");
        assert_eq!(
            container["resources"]["limits"],
            serde_json::json!({"cpu": "1", "memory": "1536Mi"})
        );
        assert_eq!(pod["spec"]["activeDeadlineSeconds"], 1000);
    }

    #[test]
    fn each_node_gets_its_own_pod_whatever_was_rendered_before() {
        let template = PodTemplate::parse(
            "spec: {priorityClassName: {{ if eq .NodeName \"b\" }}high{{ else }}low{{ end }}}",
        );
        let template = template.unwrap();
        let class = |node| template.render(node, "1", "s").unwrap().spec.unwrap();
        for (node, expected) in [("a", "low"), ("c", "low"), ("b", "high"), ("a", "low")] {
            assert_eq!(class(node).priority_class_name.as_deref(), Some(expected));
        }
    }

    #[test]
    fn json_is_strict_about_types_and_yaml_in_braces_is_still_yaml() {
        let template = PodTemplate::parse("{\"spec\":{\"nodeName\":5}}").unwrap();
        assert!(matches!(
            template.render("n", "i", "s"),
            Err(PodTemplateError::NotAPod { .. })
        ));
        assert_eq!(pod("{spec: {nodeName: 5}}")["spec"]["nodeName"], "5");
        assert_eq!(
            pod("{\"spec\":{\"nodeName\":\"a\"}} trailing")["spec"]["nodeName"],
            "a"
        );
    }

    #[test]
    fn octal_modes_nulls_and_unknown_fields_are_read_as_go_reads_them() {
        let pod = pod(
            "metadata: {labels: null}\nspec:\n  nosuch: 1\n  containers: null\n  hostNetwork: false\n  volumes: [{name: v, secret: {secretName: s, defaultMode: 0644}}]\n",
        );
        assert_eq!(pod["spec"]["volumes"][0]["secret"]["defaultMode"], 0o644);
        assert_eq!(pod["spec"]["hostNetwork"], serde_json::Value::Null);
    }

    proptest::proptest! {
        #[test]
        fn any_template_is_answered(
            parts in proptest::collection::vec(
                "(\\{\\{|\\}\\}|-| |if|else|with|end|range|define|\"t\"|\\.NodeName|\\.|\\||\\(|\\)|eq|printf|'x'|`|\"|\\\\|3|\\$x|:=|a:|\n|é|/\\*|\\*/)",
                0..24,
            ),
        ) {
            let text = parts.concat();
            if let Ok(template) = PodTemplate::parse(&text) {
                let _ = template.render("node-a", "202611232359", "batch");
            }
        }
    }

    #[test]
    fn what_is_no_pod_is_an_error_of_one_line() {
        for (template, part) in [
            ("", "empty"),
            ("- a\n", "mapping"),
            ("just text", "mapping"),
            ("spec: [unclosed", "yaml"),
            ("spec: {containers: {name: x}}", "spec.containers"),
            (
                "spec: {containers: [{name: m, resources: {limits: {cpu: lots}}}]}",
                "quantity",
            ),
            ("spec: {hostNetwork: 'true'}", "spec.hostNetwork"),
        ] {
            let error = PodTemplate::parse(template)
                .unwrap()
                .render("n", "i", "s")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(part) && !error.contains('\n'),
                "{template}: {error}"
            );
        }
    }
}
