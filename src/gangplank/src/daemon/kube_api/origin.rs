//! Whether a browser asks for somebody's web page. Browsers name the page's server; kubectl names none, and
//! Python's client the very server that it asks.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, header};

/// Whether a request comes from no page, or from one of this server, which has none.
///
/// A page's server could give its own name our address, so that the page seems to be ours. Addresses and
/// `localhost` can't be given away like that.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| host.parse().is_ok_and(|host| is_fixed(&host)));
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let page = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        page.is_some() && page == host
    })
}

fn is_fixed(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(host: &'static str, origins: &[&'static str]) -> bool {
        let mut headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        origins.iter().for_each(|origin| {
            headers.append(header::ORIGIN, origin.parse().unwrap());
        });
        is_own(&headers)
    }

    #[test]
    fn programs_are_let_in() {
        assert!(own("gangplank.example:8001", &[]));
        assert!(own("127.0.0.1:8001", &["http://127.0.0.1:8001"]));
        assert!(own("[::1]:8001", &["http://[::1]:8001"]));
        assert!(own("localhost:8001", &["http://localhost:8001"]));
    }

    #[test]
    fn pages_of_others_are_not() {
        for origin in ["http://evil.example", "http://127.0.0.1:8002", "https://127.0.0.1:8001", "null", ""] {
            assert!(!own("127.0.0.1:8001", &[origin]), "{origin}");
        }
        assert!(!own("127.0.0.1:8001", &["http://127.0.0.1:8001", "http://evil.example"]));
        // The page's server gave its name our address.
        assert!(!own("evil.example:8001", &["http://evil.example:8001"]));
    }
}
