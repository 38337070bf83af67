//! The ports of a channel WebSocket: `?ports=80,443`, or `?ports=80&ports=443`. Other sessions name none in the query.

use std::sync::Arc;

use super::answer::Refusal;

/// The ports of a query, in order. Duplicates are kept, because each pair of channels belongs to one entry.
pub(super) fn of_query(query: &str) -> Result<Arc<[u16]>, Refusal> {
    let mut ports = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "ports" {
            continue;
        }
        for port in value.split(',') {
            let number = port.parse().ok().filter(|number| *number != 0);
            ports.push(number.ok_or_else(|| Refusal::bad_port(port))?);
        }
    }
    Ok(ports.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_all_forms_that_clients_use() {
        for (query, ports) in [
            ("", &[][..]),
            ("other=1&port=2", &[]),
            ("ports=80", &[80]),
            ("ports=443%2C80&x", &[443, 80]),
            ("ports=80&ports=80,8443", &[80, 80, 8443]),
        ] {
            assert_eq!(&*of_query(query).unwrap(), ports, "{query}");
        }
    }

    #[test]
    fn invalid_ports_are_refused() {
        for query in
            ["ports=", "ports=0", "ports=80,", "ports=http", "ports=65536", "ports=-1", "ports=80;443"]
        {
            assert_eq!(of_query(query).unwrap_err().code(), 400, "{query}");
        }
    }
}
