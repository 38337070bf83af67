//! The `Origin` header, by which a request from a web page is recognized. Browsers send the page's server; kubectl sends
//! no origin, and Python's client sends the server that it connects to.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, header};

/// Whether a request does not come from another server's web page. This server has no pages.
///
/// Only addresses and `localhost` count as this server. With any other name, its owner could point it to our address
/// after the page was loaded, and the page would seem to be ours (DNS rebinding).
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
    fn requests_of_programs_are_accepted() {
        assert!(own("gangplank.example:8001", &[]));
        assert!(own("127.0.0.1:8001", &["http://127.0.0.1:8001"]));
        assert!(own("[::1]:8001", &["http://[::1]:8001"]));
        assert!(own("localhost:8001", &["http://localhost:8001"]));
    }

    #[test]
    fn requests_of_web_pages_are_refused() {
        for origin in ["http://evil.example", "http://127.0.0.1:8002", "https://127.0.0.1:8001", "null", ""] {
            assert!(!own("127.0.0.1:8001", &[origin]), "{origin}");
        }
        assert!(!own("127.0.0.1:8001", &["http://127.0.0.1:8001", "http://evil.example"]));
        // DNS rebinding: the page's name now has our address.
        assert!(!own("evil.example:8001", &["http://evil.example:8001"]));
    }
}
