//! Certificates for a daemon with TLS and for crictl, made on the spot.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Writes a CA certificate, and the certificates and keys of a server and a client that it has signed.
pub(crate) fn write_files(dir: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    for who in ["localhost", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([who.to_owned()]).unwrap();
        std::fs::write(dir.join(format!("{who}.pem")), params.signed_by(&key, &authority).unwrap().pem())
            .unwrap();
        std::fs::write(dir.join(format!("{who}.key")), key.serialize_pem()).unwrap();
    }
}

/// The daemon's section.
pub(crate) fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "\n[streaming.tls]\ncert = \"{dir}/localhost.pem\"\nkey = \"{dir}/localhost.key\"\n\
         client_ca = \"{dir}/ca.pem\"\n"
    )
}

/// crictl's options, which make it check the server's certificate against the given name.
pub(crate) fn crictl_arguments(dir: &Path) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let options = [("--tls-ca", "ca.pem"), ("--tls-cert", "client.pem"), ("--tls-key", "client.key")];
    let mut arguments: Vec<_> =
        options.iter().flat_map(|(option, name)| [option.to_string(), file(name)]).collect();
    arguments.extend(["--tls-sni".to_owned(), "localhost".to_owned()]);
    arguments
}
