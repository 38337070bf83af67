//! Which ports a channel WebSocket is for: `?ports=80,443`, or one after the other. Other sessions name none.

use std::sync::Arc;

use super::answer::Refusal;

/// The ports of a query, in their order; a port that comes twice is there twice.
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
    fn ports_come_in_any_form_that_clients_write() {
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
    fn what_is_no_port_is_refused() {
        for query in
            ["ports=", "ports=0", "ports=80,", "ports=http", "ports=65536", "ports=-1", "ports=80;443"]
        {
            assert_eq!(of_query(query).unwrap_err().code(), 400, "{query}");
        }
    }
}
