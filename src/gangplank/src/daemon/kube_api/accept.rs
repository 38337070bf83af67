//! The form in which a client wants objects: the `Accept` header.

use http::{HeaderMap, header};

use super::answer::Refusal;

/// A form in which objects can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectForm {
    /// As plain JSON objects.
    Plain,
    /// As a table to print.
    Table,
}

impl ObjectForm {
    /// The first form in the client's list that is served. Clients list the one they prefer first, and quality values are
    /// ignored.
    pub(super) fn wanted(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut ranges = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|range| !range.is_empty())
            .peekable();
        if ranges.peek().is_none() {
            return Ok(Self::Plain);
        }
        ranges.find_map(Self::of_range).ok_or_else(Refusal::not_acceptable)
    }

    fn of_range(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<&str> = parts.collect();
        let is = |parameter: &str| parameters.contains(&parameter);
        if !parameters.iter().any(|parameter| parameter.starts_with("as=")) {
            return Some(Self::Plain);
        }
        (is("as=Table") && is("g=meta.k8s.io") && is("v=v1")).then_some(Self::Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str) -> Result<ObjectForm, Refusal> {
        ObjectForm::wanted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
    }

    #[test]
    fn kubectl_get_asks_for_a_table() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(wanted(kubectl).unwrap(), ObjectForm::Table);
    }

    #[test]
    fn other_programs_ask_for_json() {
        assert_eq!(ObjectForm::wanted(&HeaderMap::new()).unwrap(), ObjectForm::Plain);
        for accept in [
            "application/json, */*",
            "*/*",
            "application/vnd.kubernetes.protobuf,application/json",
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, application/json",
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
            "application/json;q=0.9",
        ] {
            assert_eq!(wanted(accept).unwrap(), ObjectForm::Plain, "{accept}");
        }
    }

    #[test]
    fn other_media_types_are_refused() {
        for accept in ["application/yaml", "application/vnd.kubernetes.protobuf", "text/html"] {
            assert_eq!(wanted(accept).unwrap_err().code(), 406, "{accept}");
        }
    }
}
