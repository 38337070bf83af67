//! `labelSelector` and `fieldSelector`: terms joined by commas, all of which must hold.

use super::answer::Refusal;
use crate::daemon::pods::Pod;

/// The query's terms.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<(Field, Term)>,
    /// Whether the client asks to watch for changes.
    pub(super) watch: bool,
}

/// What must hold of one label or field.
#[derive(Debug, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Present(String),
    Absent(String),
}

/// A field that a selector may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Phase,
}

impl Selector {
    /// Parses a request's query. Other parameters, such as those for paging, have no effect.
    pub(super) fn of_query(query: Option<&str>) -> Result<Self, Refusal> {
        let mut selector = Self::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "labelSelector" => selector.labels = labels(&value)?,
                "fieldSelector" => selector.fields = fields(&value)?,
                "watch" => selector.watch = matches!(&*value, "1" | "true"),
                _ => {}
            }
        }
        Ok(selector)
    }

    /// Whether this pod, which is in this phase, matches all terms.
    pub(super) fn wants(&self, pod: &Pod, phase: &str) -> bool {
        self.labels.iter().all(|term| term.holds(|key| pod.labels.get(key).map(String::as_str)))
            && self.fields.iter().all(|(field, term)| {
                term.holds(|_| {
                    Some(match field {
                        Field::Name => &pod.name,
                        Field::Namespace => &pod.namespace,
                        Field::Phase => phase,
                    })
                })
            })
    }
}

impl Term {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Is(key, wanted) => value(key) == Some(wanted),
            Self::IsNot(key, unwanted) => value(key) != Some(unwanted),
            Self::Present(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }

    /// `a=b`, `a==b` or `a!=b`.
    fn comparison(text: &str) -> Option<Self> {
        if let Some((key, value)) = text.split_once("!=") {
            return Some(Self::IsNot(key.trim().into(), value.trim().into()));
        }
        let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
        Some(Self::Is(key.trim().into(), value.trim().into()))
    }
}

fn terms(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|term| !term.is_empty())
}

fn labels(text: &str) -> Result<Vec<Term>, Refusal> {
    const EXPECTED: &str = "terms such as app=web, app!=web, app or !app, joined by commas";
    // Set-based terms ("in", "notin") have parentheses, and no other term does. Their commas would be split wrongly.
    if text.contains(['(', ')']) {
        return Err(Refusal::bad_selector(text, EXPECTED));
    }
    let term = |term: &str| {
        Term::comparison(term).unwrap_or_else(|| match term.strip_prefix('!') {
            Some(key) => Term::Absent(key.trim().into()),
            None => Term::Present(term.into()),
        })
    };
    Ok(terms(text).map(term).collect())
}

fn fields(text: &str) -> Result<Vec<(Field, Term)>, Refusal> {
    const EXPECTED: &str =
        "comparisons of metadata.name, metadata.namespace or status.phase, joined by commas";
    let field = |term: &str| {
        let term = Term::comparison(term)?;
        let (Term::Is(key, _) | Term::IsNot(key, _)) = &term else { return None };
        let field = match key.as_str() {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            "status.phase" => Field::Phase,
            _ => return None,
        };
        Some((field, term))
    };
    terms(text).map(field).collect::<Option<_>>().ok_or_else(|| Refusal::bad_selector(text, EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::pods::tests::pod;

    fn wants(query: &str) -> bool {
        let mut pod = pod("abc", "demo");
        pod.labels.insert("app".into(), "web".into());
        Selector::of_query(Some(query)).unwrap().wants(&pod, "Running")
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        assert!(wants(""));
        assert!(wants("limit=500&labelSelector=&fieldSelector="));
        assert!(Selector::of_query(None).unwrap() == Selector::default());
    }

    #[test]
    fn labels_are_compared_as_kubernetes_does() {
        for holds in ["app%3Dweb", "app==web", "app!=db", "tier!=1", "app", "!tier", "app=web,!tier"] {
            assert!(wants(&format!("labelSelector={holds}")), "{holds}");
        }
        for fails in ["app=db", "tier=1", "app!=web", "tier", "!app", "app=web,tier"] {
            assert!(!wants(&format!("labelSelector={fails}")), "{fails}");
        }
    }

    #[test]
    fn fields_are_name_namespace_and_phase() {
        for holds in ["metadata.name=demo", "metadata.namespace=default", "status.phase!=Pending"] {
            assert!(wants(&format!("fieldSelector={holds}")), "{holds}");
        }
        for fails in
            ["metadata.name%3Dother", "status.phase=Pending", "metadata.name=demo,metadata.namespace=x"]
        {
            assert!(!wants(&format!("fieldSelector={fails}")), "{fails}");
        }
    }

    #[test]
    fn unknown_terms_are_refused_and_not_ignored() {
        for query in
            ["labelSelector=app+in+(a,b)", "fieldSelector=spec.nodeName%3Dx", "fieldSelector=metadata.name"]
        {
            assert_eq!(Selector::of_query(Some(query)).unwrap_err().code(), 400, "{query}");
        }
    }

    #[test]
    fn watches_are_recognized() {
        assert!(Selector::of_query(Some("watch=true")).unwrap().watch);
        assert!(Selector::of_query(Some("watch=1")).unwrap().watch);
        assert!(!Selector::of_query(Some("watch=0")).unwrap().watch);
    }
}
